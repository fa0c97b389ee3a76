"""Folders of base models: the files beside the weights, and whole ones."""

import shutil
from pathlib import Path

import pytest

from app.models.loading import LoadedModel
from tests.models.broken import CUT, in_layout, write_weights


@pytest.fixture(scope="session")
def processor_files(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything but the weights."""
    folder = tmp_path_factory.mktemp("files")
    loaded.processor.save_pretrained(folder)
    loaded.processor.feature_extractor.save_pretrained(folder)
    loaded.model.config.architectures = ["Qwen2AudioForConditionalGeneration"]
    loaded.model.config.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(processor_files: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(processor_files, tmp_path / "the-base"))


@pytest.fixture
def whole(folder: Path, loaded: LoadedModel) -> Path:
    """An intact model in the Hub's layout, in one file."""
    write_weights(folder, in_layout(loaded.model, "hub"))
    return folder


@pytest.fixture
def sharded(folder: Path, loaded: LoadedModel) -> Path:
    """The same in three shards."""
    write_weights(folder, in_layout(loaded.model, "hub"), CUT)
    return folder
