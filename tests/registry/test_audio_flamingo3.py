"""Adapters over Audio Flamingo 3: what fits, under the names of every layout, and what belongs to another model."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from app.models.loading import LoadedModel
from app.registry.adapter_files.validate import validate
from tests.flamingo import random_flamingo
from tests.support import make_adapter, random_model

WEIGHTS = "adapter_model.safetensors"
KINDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "language model": ({}, ["language_model"]),
    "tower": ({"target_modules": r".*audio_tower.*(q_proj|fc1)"}, ["audio_tower"]),
    "projector": ({"target_modules": r".*multi_modal_projector.linear_\d"}, ["projector"]),
    "saved projector": ({"modules_to_save": ["multi_modal_projector"]}, ["language_model", "projector"]),
}


@pytest.fixture(scope="module")
def flamingo() -> LoadedModel:
    return random_flamingo()


@pytest.mark.parametrize("kind", KINDS)
def test_what_fits_is_served_in_batches(flamingo: LoadedModel, tmp_path: Path, kind: str) -> None:
    config, parts = KINDS[kind]
    report = validate(make_adapter(flamingo, tmp_path, 1, **config), flamingo.spec, max_rank=64)
    assert (report.problems, report.serving, report.parts) == ([], "batched", parts)


def test_names_of_the_older_layout_mean_the_same(flamingo: LoadedModel, tmp_path: Path) -> None:
    folder = make_adapter(flamingo, tmp_path, 1)
    today, older = "base_model.model.model.language_model.", "base_model.model.language_model.model."
    tensors = {name.replace(today, older): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    assert any(name.startswith(older) for name in tensors)
    save_file(tensors, folder / WEIGHTS)
    assert validate(folder, flamingo.spec, max_rank=64).problems == []


def test_another_familys_projector_is_refused(flamingo: LoadedModel, tmp_path: Path) -> None:
    folder = make_adapter(random_model(), tmp_path, 1, target_modules=r".*multi_modal_projector.linear")
    (problem, *_) = validate(folder, flamingo.spec, max_rank=64).problems
    assert "multi_modal_projector.linear" in problem
