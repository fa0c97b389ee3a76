"""A tiny random model on disk and a small data set, for runs that take a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from app.audio.decode import Limits
from app.models.loading import LoadedModel, load
from app.models.prompt import PromptRenderer
from app.settings import Settings
from tests.support import random_model
from training.audio_features import AudioFeatures
from training.data.readers import read_rows
from training.events import Event, Events
from training.examples import Example, make_examples
from training.options import Places, TrainOptions
from training.reports.outcome import Outcome
from training.run import Run
from training.sample_data import write

ROWS = 40


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model as `from_pretrained` reads it."""
    folder = tmp_path_factory.mktemp("random-model")
    made = random_model()
    made.model.save_pretrained(str(folder))
    made.processor.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `data.jsonl` of telephone tones."""
    return write(tmp_path_factory.mktemp("tones"), ROWS)


@pytest.fixture
def fresh(model_folder: Path) -> LoadedModel:
    return load(str(model_folder), torch.device("cpu"), torch.float32)


@pytest.fixture
def audio_features(fresh: LoadedModel, tmp_path: Path) -> AudioFeatures:
    return AudioFeatures(fresh, Limits(60, 1 << 24), tmp_path / "heard")


@pytest.fixture
def examples(fresh: LoadedModel, audio_features: AudioFeatures, tones: Path) -> list[Example]:
    rows = read_rows(str(tones), default_prompt="What?")
    return make_examples(rows, audio_features, PromptRenderer(fresh.processor))


@pytest.fixture
def begin(model_folder: Path, tones: Path, tmp_path: Path) -> Callable[..., tuple[Run, list[Event]]]:
    """A run over the random model and the tones, and the list that its events go into."""

    def make(
        work: str = "work", data: Path = tones, model: Path = model_folder, **asked: Any
    ) -> tuple[Run, list[Event]]:
        seen: list[Event] = []
        usual = {"data": str(data), "name": "tones", "epochs": 1, "evaluate_rows": 4, "max_new_tokens": 8}
        settings = Settings(model=str(model), adapters=tmp_path / "registry", device="cpu")
        places = Places(tmp_path / "registry", tmp_path / work)
        return Run(TrainOptions.model_validate(usual | asked), places, settings, Events([seen.append])), seen

    return make


@pytest.fixture
def train(begin: Callable[..., tuple[Run, list[Event]]]) -> Callable[..., tuple[Outcome, list[Event]]]:
    """Such a run, done."""

    def go(**asked: Any) -> tuple[Outcome, list[Event]]:
        run, seen = begin(**asked)
        outcome = run.run()
        assert outcome is not None
        return outcome, seen

    return go
