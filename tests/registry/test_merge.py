"""Merged adapters answer as PEFT's own mix does."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from app.errors import AdapterNotFound, BadRequest, Conflict
from app.models.loading import LoadedModel
from app.models.prompt import Message
from app.registry.adapter_files.keys import translate
from app.registry.adapter_files.weights import read_weights
from app.registry.local import LocalRegistry
from app.registry.merge import merge
from tests.layouts import PATHS, save, trained
from tests.support import mix_adapters, oracle, oracle_model, peft_model

MESSAGES = [Message("user", ("go on",))]


@pytest.fixture
def filled(registry: LocalRegistry, folders: dict[str, Path]) -> LocalRegistry:
    for name in ("qv", "qv2", "rslora", "tower", "projector", "dora"):
        registry.publish(folders[name], name)
    return registry


def answer(model: object, loaded: LoadedModel) -> list[int]:
    return oracle(model, loaded, MESSAGES, [], 24)


@pytest.mark.parametrize("parts", [{"qv": 0.6, "qv2": 0.4}, {"qv": 1.0, "rslora": -0.5, "qv2": 0.3}])
def test_linear_is_the_mix(
    filled: LocalRegistry, folders: dict[str, Path], loaded: LoadedModel, parts: dict[str, float]
) -> None:
    made = merge(filled, oracle_model(loaded), parts, "linear", "both")
    ours = answer(peft_model(loaded, filled.folder(made)), loaded)
    mixed = mix_adapters(loaded, [(folders[name], weight) for name, weight in parts.items()])
    assert ours == answer(mixed, loaded)
    assert ours != answer(oracle_model(loaded), loaded)
    assert made.manifest.task == f"linear merge of {', '.join(f'{n}@1:{w:g}' for n, w in parts.items())}"


@pytest.mark.parametrize(("how", "theirs"), [("ties", "ties"), ("dare", "dare_linear")])
def test_ties_and_dare_are_pefts(
    filled: LocalRegistry, folders: dict[str, Path], loaded: LoadedModel, how: str, theirs: str
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


def test_what_cannot_be_merged_is_refused(filled: LocalRegistry, loaded: LoadedModel) -> None:
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


@pytest.mark.parametrize("layout", ["today", "older"])
def test_what_is_merged_is_what_was_trained(
    layout: str, registry: LocalRegistry, tmp_path: Path, loaded: LoadedModel
) -> None:
    """rsLoRA first, ranks and alphas by pattern, names of older transformers: the sum of what each adds."""
    ways = {
        "one": {"r": 4, "lora_alpha": 6, "use_rslora": True, "rank_pattern": {"q_proj": 7}},
        "two": {"r": 8, "alpha_pattern": {f"{PATHS[layout]}1.self_attn.q_proj": 40}},
    }
    wanted: dict[str, torch.Tensor] = {}
    for seed, (name, config) in enumerate(ways.items()):
        model = trained(loaded, layout, LoraConfig(target_modules=["q_proj", "v_proj"], **config), seed)
        registry.publish(save(model, tmp_path / name), name)
        for path, layer in model.base_model.model.named_modules():
            if isinstance(layer, LoraLayer):
                delta = {"one": 0.6, "two": -0.4}[name] * layer.get_delta_weight("default")
                wanted[translate(path)] = wanted.get(translate(path), 0) + delta
    made = registry.read_with(
        merge(registry, oracle_model(loaded), {"one": 0.6, "two": -0.4}, "linear", "both"), read_weights
    )
    assert made.lora.keys() == wanted.keys()
    for path, pair in made.lora.items():
        torch.testing.assert_close(pair.scaling * pair.b @ pair.a, wanted[path], rtol=1e-4, atol=1e-5)
