"""Merged adapters answer as PEFT's own mix does."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from app.errors import AdapterNotFound, BadRequest, Conflict
from app.model.base import LoadedModel
from app.model.prompt import Message
from app.registry.merge import merge
from app.registry.registry import Registry
from tests.support import mix_adapters, oracle, oracle_model, peft_model

MESSAGES = [Message("user", ("go on",))]


@pytest.fixture
def filled(registry: Registry, folders: dict[str, Path]) -> Registry:
    for name in ("qv", "qv2", "rslora", "tower", "projector", "dora"):
        registry.publish(folders[name], name)
    return registry


def answer(model: object, loaded: LoadedModel) -> list[int]:
    return oracle(model, loaded, MESSAGES, [], 24)


@pytest.mark.parametrize("parts", [{"qv": 0.6, "qv2": 0.4}, {"qv": 1.0, "rslora": -0.5, "qv2": 0.3}])
def test_linear_is_the_mix(
    filled: Registry, folders: dict[str, Path], loaded: LoadedModel, parts: dict[str, float]
) -> None:
    made = merge(filled, oracle_model(loaded), parts, "linear", "both")
    ours = answer(peft_model(loaded, filled.folder(made)), loaded)
    mixed = mix_adapters(loaded, [(folders[name], weight) for name, weight in parts.items()])
    assert ours == answer(mixed, loaded)
    assert ours != answer(oracle_model(loaded), loaded)
    assert made.manifest.task == f"linear merge of {', '.join(f'{n}@1:{w:g}' for n, w in parts.items())}"


@pytest.mark.parametrize(("how", "theirs"), [("ties", "ties"), ("dare", "dare_linear")])
def test_ties_and_dare_are_pefts(
    filled: Registry, folders: dict[str, Path], loaded: LoadedModel, how: str, theirs: str
) -> None:
    made = merge(filled, oracle_model(loaded), {"qv": 0.6, "qv2": 0.4}, how, "both")
    model = PeftModel.from_pretrained(oracle_model(loaded), str(folders["qv"]), adapter_name="one")
    model.load_adapter(str(folders["qv2"]), "two")
    torch.manual_seed(0)
    model.add_weighted_adapter(["one", "two"], [0.6, 0.4], "mixed", combination_type=theirs, density=0.5)
    state = {name: value for name, value in model.state_dict().items() if ".mixed." in name}
    saved = load_file(filled.folder(made) / "adapter_model.safetensors")
    assert len(saved) == len(state)
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, state[name.replace(".weight", ".mixed.weight")])


def test_what_cannot_be_merged_is_refused(filled: Registry, loaded: LoadedModel) -> None:
    model = oracle_model(loaded)
    for parts, how, words in [
        ({"qv": 1.0}, "linear", "two adapters"),
        ({"qv": 1.0, "dora": 1.0}, "linear", "'dora' cannot be merged"),
        ({"qv": 1.0, "projector": 1.0}, "linear", "'projector' cannot be merged"),
        ({"qv": 1.0, "rslora": 1.0}, "ties", "equal ranks"),
    ]:
        with pytest.raises(BadRequest, match=words):
            merge(filled, model, parts, how, "both")
    with pytest.raises(AdapterNotFound):
        merge(filled, model, {"qv": 1.0, "gone": 1.0}, "linear", "both")
    with pytest.raises(Conflict):
        merge(filled, model, {"qv": 1.0, "qv2": 1.0}, "linear", "rslora")
    assert "both" not in filled.names()
