"""A trained adapter answers in the service as it did in the trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from app.engine.request import Done, Sampling
from app.model.base import load
from app.model.prompt import Message, PromptRenderer
from app.service import Service
from app.settings import Settings
from training.answers import Answerer
from training.examples import Example
from training.forward import Forward
from training.hearing import Hearing


def test_service_and_trainer_answer_alike(
    train: Callable[..., Any], examples: list[Example], hearing: Hearing, model_folder: Path, tmp_path: Path
) -> None:
    train(epochs=3, learning_rate=1e-2)
    plain = load(str(model_folder), torch.device("cpu"), torch.float32)
    trained = PeftModel.from_pretrained(plain.model, str(tmp_path / "registry" / "tones")).eval()
    renderer = PromptRenderer(plain.processor)
    wanted = Answerer(Forward(trained.base_model.model, hearing), renderer, 16).answer(examples[:6])
    service = Service.open(Settings(model=str(model_folder), adapters=tmp_path / "registry", device="cpu", kv_gb=0.05))
    try:
        shares = service.shares("tones")
        for example, answer in zip(examples[:6], wanted, strict=True):
            (sound,) = example.row.sounds
            asked = [Message("user", (*hearing.clips(sound), example.row.prompt))]
            assert service.prompts.render(asked) == list(example.prompt)
            *_, last = service.stream(asked, shares, Sampling(max_new_tokens=16))
            assert isinstance(last, Done)
            assert last.text.strip() == answer
    finally:
        service.close()
