"""A trained adapter answers in the service as it did in the trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from app.engine.request import Done
from app.engine.sampling_params import SamplingParams
from app.models.loading import load
from app.models.prompt import PromptRenderer
from app.service import GenerationInput, Service
from app.service.generation import Conversation
from app.settings import Settings
from tests.audio.speech import NAMES, piece, silence
from tests.sounds import wav
from training.answers import Answerer
from training.audio_features import AudioFeatures
from training.data.rows import Sound
from training.examples import Example
from training.methods.forward import Forward


def test_service_and_trainer_answer_alike(
    train: Callable[..., Any],
    examples: list[Example],
    audio_features: AudioFeatures,
    model_folder: Path,
    tmp_path: Path,
) -> None:
    train(epochs=3, learning_rate=1e-2)
    plain = load(str(model_folder), torch.device("cpu"), torch.float32)
    trained = PeftModel.from_pretrained(plain.model, str(tmp_path / "registry" / "tones")).eval()
    renderer = PromptRenderer(plain.processor)
    wanted = Answerer(Forward(trained.base_model.model, audio_features), renderer, 16).answer(examples[:6])
    service = Service.open(Settings(model=str(model_folder), adapters=tmp_path / "registry", device="cpu", kv_gb=0.05))
    try:
        adapters = service.adapters.resolve("tones")
        for example, answer in zip(examples[:6], wanted, strict=True):
            (sound,) = example.row.sounds
            asked = Conversation.single_turn([audio_features.clips(sound)], example.row.prompt)
            assert service.prompts.render(asked.messages) == list(example.prompt)
            *_, last = service.stream(GenerationInput(asked, adapters, SamplingParams(max_new_tokens=16)))
            assert isinstance(last, Done)
            assert last.text.strip() == answer
    finally:
        service.close()


@pytest.mark.parametrize("pause", [0.0, 0.5, 7.0])
def test_service_and_trainer_cut_long_recordings_alike(
    audio_features: AudioFeatures, model_folder: Path, tmp_path: Path, pause: float
) -> None:
    """Without a pause, with short ones and with long ones; the window is two seconds."""
    samples = np.concatenate([part for name in NAMES[:6] for part in (piece(name), silence(pause))])
    data = wav(samples)
    settings = Settings(model=str(model_folder), adapters=tmp_path / "registry", device="cpu", kv_gb=0.05)
    service = Service.open(settings)
    try:
        receipt, clips = service.read_clips(data)
    finally:
        service.close()
    sound = Sound("long.wav", data=data)
    trained = audio_features.clips(sound)
    assert len(clips) == len(receipt.segments) > 3
    assert [f":{clip.key}" for clip in trained] == [clip.key for clip in clips]  # before it, the service has a tenant
    assert all(torch.equal(ours.mel, theirs.mel) for ours, theirs in zip(trained, clips, strict=True))
    (heard,) = audio_features.extract([sound])
    assert [(one.key, one.tokens) for one in heard] == [(clip.key, clip.tokens) for clip in trained]
    assert (receipt.skipped_seconds > 0) == (pause > 5)
