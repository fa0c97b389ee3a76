"""Silero's voice activity detector, run over a whole recording at once.

The package's own code is not imported: importing it sets torch to one thread for the whole process, and its model keeps
state between calls. The weights it ships are read instead, and the network is written out below.

The network runs with one torch thread, on threads of its own where the process has more: its many small operations gain
nothing from more, lose much where other work keeps the cores busy, and one thread always adds in the same order.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Barrier, Lock

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from app.audio.files import Samples

RATE = 16_000  # Hz, of the samples
FRAME = 512  # samples that one probability is for: 32 ms
_CONTEXT = 64  # samples before a frame that the network sees again
_BLOCK = 1024  # frames in one call, 33 s: bounds memory
_FFT, _HOP = 256, 128
_MOST_THREADS = 4

Weights = dict[str, torch.Tensor]
State = tuple[torch.Tensor, torch.Tensor]
_loading = Lock()


def speech_probabilities(samples: Samples, gain: float = 1.0) -> npt.NDArray[np.float32]:
    """The probability of speech in each frame of ``samples`` float32 [n] at 16 kHz, times ``gain``.

    float32 [ceil(n / FRAME)]. Blocking: takes less than 1 ms of one core per second of sound. Any number of threads may
    call it.
    """
    if not len(samples):
        return np.zeros(0, np.float32)
    with _loading:
        weights = _weights()
        threads = _threads() if torch.get_num_threads() > 1 else None
    if threads is None:
        return _probabilities(weights, samples, gain)
    return threads.submit(_probabilities, weights, samples, gain).result()


@cache
def _threads() -> ThreadPoolExecutor:
    count = min(_MOST_THREADS, os.cpu_count() or 1)
    threads = ThreadPoolExecutor(count, "voice-activity", initializer=_begin)
    before, all_started = torch.get_num_threads(), Barrier(count)
    for started in [threads.submit(all_started.wait) for _ in range(count)]:
        started.result()
    torch.set_num_threads(before)  # the number that threads yet to come begin with, which `_begin` has changed
    return threads


def _begin() -> None:
    torch.get_num_threads()  # the first call on a thread sets it to the process's number
    torch.set_num_threads(1)


@cache
def _weights() -> Weights:
    from safetensors.torch import load_file

    package = find_spec("silero_vad")  # finds it, does not import it
    assert package is not None
    assert package.submodule_search_locations
    weights: Weights = load_file(Path(package.submodule_search_locations[0]) / "data" / "silero_vad_16k.safetensors")
    return weights


def _probabilities(weights: Weights, samples: Samples, gain: float) -> npt.NDArray[np.float32]:
    count = -(-len(samples) // FRAME)
    zeros = torch.zeros(1, 1, weights["lstm_cell.weight_hh"].shape[1])
    state, found = (zeros, zeros), []
    with torch.inference_mode():
        for first in range(0, count, _BLOCK):
            frames = min(_BLOCK, count - first)
            block = np.zeros(_CONTEXT + frames * FRAME, np.float32)
            before = min(_CONTEXT, first * FRAME)
            part = samples[first * FRAME - before : (first + frames) * FRAME]
            np.multiply(part, np.float32(gain), out=block[_CONTEXT - before :][: len(part)])
            chances, state = _decoded(weights, _encoded(weights, _frames(block)), state)
            found.append(chances)
        return torch.cat(found).numpy()


def _frames(block: Samples) -> torch.Tensor:
    """[frames, context + frame] of a context and the frames after it."""
    return torch.from_numpy(block).unfold(0, _CONTEXT + FRAME, FRAME)


def _encoded(weights: Weights, frames: torch.Tensor) -> torch.Tensor:
    """The convolutions over frames [n, context + frame]: [n, 128]."""
    pieces = functional.pad(frames, (0, _CONTEXT), mode="reflect").unfold(1, _FFT, _HOP)
    window = weights["stft_conv.weight"][0, 0]  # its rows are a window times cosines, then times sines
    hidden: torch.Tensor = torch.fft.rfft(pieces * window).abs()  # [n, 4, bins]
    for layer, stride in (("conv1", 1), ("conv2", 2), ("conv3", 2), ("conv4", 1)):
        kernel, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        patches = functional.pad(hidden, (0, 0, 1, 1)).unfold(1, kernel.shape[2], stride)
        hidden = (patches.flatten(2) @ kernel.flatten(1).T + bias).relu()
    return hidden[:, 0]


def _decoded(weights: Weights, encoded: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
    """Probabilities [n] of consecutive frames [n, 128], and the LSTM's state after them."""
    own = [weights[f"lstm_cell.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    outputs, hidden, cell = torch.lstm(encoded[:, None], state, own, True, 1, 0.0, False, False, False)
    logits = outputs[:, 0].relu() @ weights["final_conv.weight"][0, :, 0] + weights["final_conv.bias"]
    return logits.sigmoid(), (hidden, cell)
