"""Audio Flamingo 3 in the trainer: the loss is transformers' own, and the service answers as the trainer did."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from app.audio.decode import Limits
from app.models.loading import LoadedModel
from app.models.prompt import PromptRenderer
from app.service import Service
from app.settings import Settings
from tests.flamingo import hub_folder, random_flamingo
from tests.sounds import wav
from tests.support import SECONDS, oracle_model, tone
from tests.training.test_parity import test_service_and_trainer_answer_alike  # noqa: F401  # over this model_folder
from training.audio_features import AudioFeatures
from training.data.decoding import decode_sound
from training.data.rows import Row, Sound, Turn
from training.dimensions import dimensions
from training.examples import make_examples
from training.methods.forward import Forward, supervised


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub_folder(random_flamingo(), tmp_path_factory.mktemp("hub") / "af3")


@pytest.fixture
def long() -> Sound:
    """A recording of three windows."""
    return Sound("long.wav", data=wav(tone(300, 2.6 * SECONDS)))


def test_loss_over_several_windows_is_transformers_own(
    fresh: LoadedModel, audio_features: AudioFeatures, long: Sound
) -> None:
    turns = (Turn("user", "<audio>What is it?"), Turn("assistant", "A tone."))
    (example,) = make_examples([Row(turns, (long,), None, "row")], audio_features, PromptRenderer(fresh.processor))
    assert [clip.joined for clip in example.clips] == [False, True, True]
    samples = decode_sound(long, rate=16_000, limits=Limits(60, 1 << 24)).samples
    content = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": "What is it?"}]
    text = fresh.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    asked = fresh.processor(text=text + "A tone.<|im_end|>", audio=[samples], sampling_rate=16_000, return_tensors="pt")
    assert asked["input_ids"][0].tolist() == list(example.ids)
    labels = torch.full_like(asked["input_ids"], -100)
    labels[0, list(example.labels)] = asked["input_ids"][0, list(example.labels)]
    with torch.no_grad():
        wanted = oracle_model(fresh)(**asked, labels=labels).loss
        ours = Forward(fresh.model, audio_features).loss([example]) / supervised([example])
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)


def test_service_and_trainer_cut_alike(
    audio_features: AudioFeatures, model_folder: Path, tmp_path: Path, long: Sound
) -> None:
    settings = Settings(model=str(model_folder), adapters=tmp_path / "registry", device="cpu", kv_gb=0.05)
    service = Service.open(settings)
    try:
        receipt, clips = service.read_clips(wav(tone(300, 2.6 * SECONDS)))
    finally:
        service.close()
    trained = audio_features.clips(long)
    assert [(one.start, one.end) for one in receipt.segments] == [(0.0, 2.0), (2.0, 4.0), (4.0, 5.2)]
    assert [(f":{clip.key}", clip.tokens, clip.joined) for clip in trained] == [
        (clip.key, clip.tokens, clip.joined) for clip in clips
    ]
    assert all(torch.equal(ours.mel, theirs.mel) for ours, theirs in zip(trained, clips, strict=True))


@pytest.mark.parametrize("asked", [{"include_audio_tower": True}, {"preset": "strong"}, {"method": "projector"}])
def test_each_part_is_trained_and_taken_off_again(
    train: Callable[..., Any], model_folder: Path, asked: dict[str, Any]
) -> None:
    """A run itself compares the base's fingerprint before and after, bit for bit."""
    outcome, _ = train(**asked, max_steps=2, **({"allow": ("few_samples",)} if "method" in asked else {}))
    assert outcome is not None


def test_dimensions_of_the_released_model() -> None:
    """By hand, from the released configuration."""
    found = dimensions("nvidia/audio-flamingo-3-hf")
    width = 3584
    assert found.parts["projector"] == (1280 + 1) * width + (width + 1) * width
    layer = width * width * 2 + 2 * width * 512 + 3 * width * 18944 + (width + 2 * 512) + 2 * width
    assert found.parts["language_model"] == 28 * layer + width + 2 * 151672 * width
    lora = next(count for count in found.counts if count.method == "lora")
    assert lora.trainable == 28 * 8 * ((width + width) + (width + 512))
