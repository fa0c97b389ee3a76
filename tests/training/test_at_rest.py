"""LoRA over weights at rest: steps equal those over plain weights of the same values; the manifest names the format."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app.errors import BadRequest
from app.models.loading import load, spec_of
from app.quantization.formats import FORMATS
from app.quantization.linear import QuantizedLinear
from app.registry.adapter_files.manifest import read_manifest
from app.registry.adapter_files.validate import validate
from tests.support import dequantized
from tests.training.test_trainer import trainer_of
from training.audio_features import AudioFeatures
from training.batches import epoch
from training.examples import Example
from training.methods.forward import Forward

CPU = torch.device("cpu")


@pytest.mark.parametrize("weights", FORMATS)
def test_steps_are_those_over_the_dequantised_weights(
    weights: Any, model_folder: Path, audio_features: AudioFeatures, examples: list[Example], tmp_path: Path
) -> None:
    at_rest = load(str(model_folder), CPU, torch.float32, weights)
    states = []
    for name, loaded in (("plain", dequantized(at_rest)), ("rest", at_rest)):
        adapted, trainer, _ = trainer_of(loaded, audio_features, examples, tmp_path / name, preset="strong")
        losses = [trainer.step(rows) for rows in epoch(trainer._train, 6, 0, 0)[:2]]
        states.append((losses, adapted.state()))
        assert adapted.unload() == adapted.before
    assert isinstance(at_rest.model.lm_head, QuantizedLinear)
    assert states[0][0] == pytest.approx(states[1][0], rel=1e-5)
    for name, one in states[0][1].items():
        torch.testing.assert_close(one, states[1][1][name], rtol=1e-3, atol=1e-5)


def test_the_same_gradients_with_activation_checkpointing(
    model_folder: Path, audio_features: AudioFeatures, examples: list[Example], tmp_path: Path
) -> None:
    found = []
    for checkpointing in (False, True):
        loaded = load(str(model_folder), CPU, torch.float32, "int4")
        adapted, trainer, _ = trainer_of(loaded, audio_features, examples, tmp_path / str(checkpointing))
        forward = Forward(loaded.model, audio_features)
        loaded.model.train()
        if checkpointing:
            forward.checkpoint_activations()
        forward.loss(trainer._train[:3]).backward()
        found.append({name: one.grad for name, one in adapted.trainable.items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-4, atol=1e-6)
    assert any(gradient.abs().max() > 0 for gradient in found[0].values())


def test_the_format_is_told_by_manifest_card_and_events_and_where_it_is_served(
    train: Callable[..., Any], begin: Callable[..., Any], tmp_path: Path, model_folder: Path
) -> None:
    outcome, seen = train(max_steps=1, evaluate_rows=1, max_new_tokens=1, weights="int4")
    folder = tmp_path / "registry" / "tones"
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.weights == "int4"
    assert "base weights: int4; unchanged, bit for bit" in (folder / "README.md").read_text()
    assert next(event for event in seen if event["event"] == "start")["weights"] == "int4"
    spec = spec_of(str(model_folder))
    told = [line for line in validate(folder, spec, max_rank=64).warnings if "int4" in line]
    assert len(told) == 1
    assert "trained over int4 weights of its base and is served over unquantised ones" in told[0]
    same = validate(folder, replace(spec, weights="int4"), max_rank=64)
    assert same.ok
    assert not [line for line in same.warnings if "int4" in line]
    assert outcome.adapter.version == 1


def test_a_run_goes_on_over_the_format_that_it_began_with(begin: Callable[..., Any]) -> None:
    for weights in ("int8", "int8", "int4"):
        run, _ = begin(max_steps=2, weights=weights)
        rows = run.examples(run.data.train[:2])
        if weights == "int4":
            with pytest.raises(BadRequest, match=r"other options \(weights\)"):
                run.trainer(rows, rows)
        else:
            run.trainer(rows, rows)[1]._save()
