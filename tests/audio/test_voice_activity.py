"""Silero's network as we run it, beside Silero's own."""

import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from app.audio import voice_activity
from app.audio.voice_activity import FRAME, speech_probabilities
from tests.audio.speech import NAMES, RATE, human, noise, silence, sine, spliced

# What the layers of the TorchScript model are called that the package ships beside the weights we read.
OWN_NAMES = {"stft_conv.weight": "stft.forward_basis_buffer"}
OWN_NAMES |= {f"final_conv.{part}": f"decoder.decoder.2.{part}" for part in ("weight", "bias")}
OWN_NAMES |= {
    f"conv{layer + 1}.{part}": f"encoder.{layer}.reparam_conv.{part}"
    for layer in range(4)
    for part in ("weight", "bias")
}
OWN_NAMES |= {f"lstm_cell.{part}": f"decoder.rnn.{part}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}


def everybody() -> np.ndarray:
    return np.concatenate([human(name) for name in NAMES])


def test_the_network_is_silero_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the weights of their TorchScript model, frame by frame as they run it."""
    package = find_spec("silero_vad")
    assert package is not None
    assert package.submodule_search_locations
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against TorchScript
        theirs = torch.jit.load(Path(package.submodule_search_locations[0]) / "data" / "silero_vad.jit").eval()
    tensors = theirs.state_dict()
    weights = {name: tensors[f"_model.{own}"] for name, own in OWN_NAMES.items()}
    assert {name: one.shape for name, one in weights.items()} == {
        name: one.shape for name, one in voice_activity._weights().items()
    }
    monkeypatch.setattr(voice_activity, "_weights", lambda: weights)
    samples = everybody()[: 1100 * FRAME]  # more than one block
    with torch.no_grad():
        wanted = [theirs(torch.from_numpy(frame), RATE).item() for frame in samples.reshape(-1, FRAME)]
    np.testing.assert_allclose(speech_probabilities(samples), wanted, atol=1e-4)


def test_the_spectrum_is_that_of_the_shipped_basis() -> None:
    """We take an FFT where the network has cosines and sines times a window."""
    basis = voice_activity._weights()["stft_conv.weight"][:, 0].double()
    turn = 2 * torch.pi * torch.outer(torch.arange(129.0), torch.arange(256.0)).double() / 256
    torch.testing.assert_close(basis[:129], basis[0] * turn.cos(), atol=1e-5, rtol=0)
    torch.testing.assert_close(basis[129:].abs(), (basis[0] * turn.sin()).abs(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_people_speak(name: str) -> None:
    assert (speech_probabilities(human(name)) > 0.5).mean() > 0.4


def test_nobody_speaks() -> None:
    for sound in (silence(5), noise(5, -20), noise(5, -40, colour=1), sine(5, 440, -20), silence(0)):
        said = speech_probabilities(sound)
        assert said.shape == (-(-len(sound) // FRAME),)
        assert (said[16:] < 0.35).all()


def test_silence_before_and_after_speech_is_found_to_the_frame() -> None:
    samples, ((_, start), (_, end), _) = spliced([silence(3), human("librivox-0880"), silence(3)])
    speaks = np.flatnonzero(speech_probabilities(samples) > 0.5)
    assert start < speaks[0] * FRAME < start + 0.5 * RATE
    assert end - 0.5 * RATE < speaks[-1] * FRAME < end


def test_any_number_of_threads_gives_the_same_bits() -> None:
    samples, before = everybody(), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(speech_probabilities(samples))
    finally:
        torch.set_num_threads(before)
    with ThreadPoolExecutor(8) as pool:
        found += pool.map(speech_probabilities, [samples] * 16)
    assert all(np.array_equal(found[0], other) for other in found)


def test_nobody_else_s_threads_change() -> None:
    """In a fresh interpreter, where the first call starts the detector's own."""
    program = (
        "import sys, threading, numpy, torch\n"
        "torch.set_num_threads(3)\n"
        "from app.audio.voice_activity import speech_probabilities\n"
        "speech_probabilities(numpy.zeros(16000, numpy.float32))\n"
        "found = [torch.get_num_threads()]\n"
        "late = threading.Thread(target=lambda: found.append(torch.get_num_threads()))\n"
        "late.start(); late.join()\n"
        "assert found == [3, 3], found\n"
        "assert 'silero_vad' not in sys.modules and 'torchaudio' not in sys.modules\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_starts_once_however_many_ask_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_threads", "_weights"):
        getattr(voice_activity, name).cache_clear()
    before = {thread.name for thread in threading.enumerate()}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(speech_probabilities, [silence(1)] * 8))
    for name in ("_threads", "_weights"):
        assert getattr(voice_activity, name).cache_info().misses == 1
    assert before <= {thread.name for thread in threading.enumerate()}
