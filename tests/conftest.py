"""One random model and its adapters for all tests; each engine test builds what it needs over them."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from app.models.loading import LoadedModel
from tests.support import ADAPTERS, make_adapter, random_model

# The same examples in every run, on a machine of any speed; `make explore` draws new ones.
settings.register_profile("exploring", deadline=None, print_blob=True)
settings.register_profile("repeatable", settings.get_profile("exploring"), derandomize=True)
settings.load_profile("repeatable")


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
