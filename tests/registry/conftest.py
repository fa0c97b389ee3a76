import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from app.models.loading import LoadedModel
from app.registry.local import LocalRegistry


@pytest.fixture
def registry(tmp_path: Path, loaded: LoadedModel) -> LocalRegistry:
    made = LocalRegistry(tmp_path / "registry", loaded.spec, max_rank=64, keep_versions=3)
    made.open()
    return made


@pytest.fixture
def copy(tmp_path: Path, folders: dict[str, Path]) -> Callable[..., Path]:
    """A copy of an adapter to spoil: ``config`` fields are set, ``tensors`` changes the tensors in place."""

    def make(kind="qv", tensors=None, **config):
        folder = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folders[kind], folder)
        if config:
            file = folder / "adapter_config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | config))
        if tensors:
            weights = load_file(folder / "adapter_model.safetensors")
            tensors(weights)
            save_file(weights, folder / "adapter_model.safetensors")
        return folder

    return make
