"""One random model and its adapters for all tests; each engine test builds what it needs over them."""

from pathlib import Path

import pytest
import torch

from app.model.base import LoadedModel
from tests.support import ADAPTERS, make_adapter, random_model


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def loaded() -> LoadedModel:
    """For reading only: an engine patches its model, so engines take a `random_model` of their own."""
    return random_model()


@pytest.fixture(scope="session")
def folders(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder per kind of adapter, as `save_pretrained` writes it."""
    root = tmp_path_factory.mktemp("peft")
    return {
        name: make_adapter(loaded, root / name, seed, **config)
        for seed, (name, config) in enumerate(ADAPTERS.items(), start=1)
    }
