"""Base models on disk in every layout that transformers has written, and tools to break them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from app.errors import ModelRejected
from app.models.loading import LoadedModel, empty_model, load, processor_of, spec_of
from app.models.weights.checkpoint import open_checkpoint

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PARTS = ("model.language_model.", "model.audio_tower.", "model.multi_modal_projector.", "lm_head.")
# today's prefix of each part, and what stands there in each layout
LAYOUTS = {
    "today": PARTS,
    "hub": ("language_model.model.", "audio_tower.", "multi_modal_projector.", "language_model.lm_head."),
    "nested": ("language_model.model.model.", "audio_tower.", "multi_modal_projector.", "language_model.lm_head."),
}
Tensors = dict[str, torch.Tensor]
Damage = Callable[[Path, LoadedModel], object]
CPU = torch.device("cpu")
CUT = 3  # shards
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 41255560\n"


def name_in(layout: str, path: str) -> str:
    """The name of a parameter in a layout."""
    for today, other in zip(PARTS, LAYOUTS[layout], strict=True):
        if path.startswith(today):
            return other + path.removeprefix(today)
    raise AssertionError(path)


def in_layout(model: Any, layout: str) -> Tensors:
    return {name_in(layout, path): one.detach().clone() for path, one in model.state_dict().items()}


def shard(number: int, count: int) -> str:
    return f"model-{number + 1:05}-of-{count:05}.safetensors"


def write_weights(folder: Path, tensors: Tensors, shards: int = 1) -> None:
    """One file, or ``shards`` with their index."""
    if shards == 1:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        return
    names = sorted(tensors)
    places = {name: shard(at * shards // len(names), shards) for at, name in enumerate(names)}
    for file in set(places.values()):
        part = {name: tensors[name] for name in names if places[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    size = sum(one.numel() * one.element_size() for one in tensors.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": places}))


def edit_json(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def edit_header(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a safetensors header and leave the data as they are."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def refusal(folder: Path) -> str:
    """Refused before loading, in one or two lines, wherever a base is described or loaded."""
    said = []
    for way in (lambda: load(str(folder), CPU, torch.float32), lambda: open_checkpoint(str(folder))):
        with pytest.raises(ModelRejected) as caught:
            way()
        said.append(str(caught.value))
    assert said[0] == said[1]
    for way in (lambda: spec_of(str(folder)), lambda: empty_model(str(folder)), lambda: processor_of(str(folder))):
        with pytest.raises(ModelRejected):
            way()
    assert "\n" not in said[0]
    assert len(said[0]) < 600
    assert str(folder.parent) not in said[0]
    return said[0]


def rewrite(edit: Callable[[Tensors], object]) -> Damage:
    def apply(folder: Path, loaded: LoadedModel) -> None:
        tensors = in_layout(loaded.model, "hub")
        edit(tensors)
        write_weights(folder, tensors)

    return apply


def config(edit: Callable[[dict[str, Any]], object]) -> Damage:
    return lambda folder, _: edit_json(folder / "config.json", edit)


def write(name: str, data: bytes) -> Damage:
    return lambda folder, _: (folder / name).write_bytes(data)


def remove(*names: str) -> Damage:
    def apply(folder: Path, _: LoadedModel) -> None:
        for name in names:
            (folder / name).unlink()

    return apply


def instead(name: str) -> Damage:
    return lambda folder, _: (folder / WEIGHTS).rename(folder / name)
