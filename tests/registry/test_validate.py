"""What fits, how it is served, and every reason not to."""

import copy as copying
import itertools
import json
import pickle
import threading
import time
from dataclasses import replace

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model

from app.engine.lora.peft_fallback import shell_of
from app.models.loading import combine_checksums, weight_checksums
from app.registry.adapter_files.keys import module_path
from app.registry.adapter_files.manifest import BaseModelRef, Manifest, dump_manifest
from app.registry.adapter_files.plain_peft import read_plain, wrap
from app.registry.adapter_files.validate import validate
from app.registry.adapter_files.weights import read_weights, tensor_paths
from tests.support import ADAPTERS, LM, QV, make_adapter

ALONE = {"dora", "bias", "lora-bias", "embedding", "saved-head"}


def check(folder, loaded):
    return validate(folder, loaded.spec, max_rank=64)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_how_each_kind_is_served(kind, folders, loaded):
    report = check(folders[kind], loaded)
    assert report.problems == []
    assert report.serving == ("alone" if kind in ALONE else "batched")
    assert report.parameters > 0


@pytest.mark.parametrize(
    ("kind", "parts"),
    [("qv", ["language_model"]), ("tower", ["audio_tower"]), ("projector-lora", ["projector"]),
     ("projector", ["language_model", "projector"]), ("head", ["language_model"]),
     ("everything", ["audio_tower", "language_model", "projector"])],
)  # fmt: skip
def test_the_parts_touched_are_told(kind, parts, folders, loaded):
    assert check(folders[kind], loaded).parts == parts


def test_other_tuners_are_served_alone_or_refused(tmp_path, loaded):
    made = {
        "ia3": IA3Config(target_modules=LM + "k_proj", feedforward_modules=[]),
        "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, num_layers=3, token_dim=64,
                                     num_attention_heads=4),
        "conv": LoraConfig(target_modules=r".*audio_tower\.conv1"),
    }  # fmt: skip
    for name, config in made.items():
        model = get_peft_model(copying.deepcopy(loaded.model), config, autocast_adapter_dtype=False)
        for path, parameter in model.named_parameters():
            if parameter.requires_grad or "lora_B" in path:
                torch.nn.init.normal_(parameter)
        model.save_pretrained(str(tmp_path / name))
    assert (check(tmp_path / "ia3", loaded).serving, check(tmp_path / "ia3", loaded).problems) == ("alone", [])
    assert "convolutions" in check(tmp_path / "conv", loaded).problems[0]  # transformers' tower fails with them
    assert "PROMPT_TUNING" in check(tmp_path / "prompt", loaded).problems[0]


def set_to(path_end, value):
    def change(tensors):
        for key in tensors:
            if key.endswith(path_end):
                tensors[key] = value(tensors[key])

    return change


def rename(old, new):
    def change(tensors):
        for key in list(tensors):
            tensors[key.replace(old, new)] = tensors.pop(key)

    return change


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (set_to("lora_A.weight", lambda t: t * float("nan")), "NaN"),
        (set_to("lora_B.weight", torch.zeros_like), "change nothing"),
        (set_to("0.self_attn.q_proj.lora_A.weight", lambda t: t[:, :10].contiguous()), "shape"),
        (rename("layers.0", "layers.77"), "no layer of this base"),
        (rename("q_proj.lora_A", "q_proj.lora_C"), "counterpart"),
        (rename("model.language_model", "model.visual"), "no layer of this base"),
        (lambda tensors: tensors.clear(), "no tensors"),
    ],
)
def test_tensors_that_do_not_fit(tensors, words, copy, loaded):
    problems = " ".join(check(copy(tensors=tensors), loaded).problems)
    assert words in problems


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"r": 100}, "exceeds"),
        ({"r": "many"}, "adapter_config.json: r"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"rank_pattern": {"(": 4}}, "regular expression"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern"),
        ({"modules_to_save": 5}, "modules_to_save"),
        ({"peft_type": "ADAPTION_PROMPT"}, "cannot be served"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base model's weights"),
        ({"init_lora_weights": "OLoRA"}, "changes the base model's weights"),
        ({"init_lora_weights": "lora_ga"}, "changes the base model's weights"),
        ({"target_parameters": ["q_proj.weight"]}, "target_parameters"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    ],
)
def test_configurations_that_cannot_be_served(config, words, copy, loaded):
    assert words in " ".join(check(copy(**config), loaded).problems)


SLOW = ["((.|.)*)*y", "(?:(?:x?){500}){500}", "(.|.|.)" * 40 + "!", r"(\w+\.?)+!", "(.*.*)*x", ".*(a|.*)(b|.*)c"]


@pytest.mark.parametrize(
    ("config", "tensors", "words"),
    [
        ({"lora_alpha": 1e300}, None, "q_proj.lora_B.weight times its scaling 2.5e+299 holds numbers too large"),
        ({"alpha_pattern": {"1.self_attn.v_proj": -1e300}}, None, "layers.1.self_attn.v_proj.lora_B.weight times"),
        ({"lora_alpha": 8}, set_to("0.self_attn.q_proj.lora_B.weight", lambda t: t * 0 + 3e38), "scaling 2"),
        ({"lora_alpha": 1e-300}, None, "change nothing"),
    ],
)
def test_numbers_that_overflow_when_they_are_scaled(config, tensors, words, copy, loaded):
    """Finite in the file, infinite in the columns that all requests share."""
    problems = " ".join(check(copy(tensors=tensors, **config), loaded).problems)
    assert words in problems
    assert "layers.0" in problems or "layers.1" in problems or "nothing" in problems


def test_they_are_judged_in_the_dtype_that_serves(copy, loaded):
    folder = copy(tensors=set_to("0.self_attn.q_proj.lora_B.weight", lambda t: t * 0 + 3e4))
    assert check(folder, loaded).ok
    half = replace(loaded, spec=replace(loaded.spec, dtype=torch.float16))
    problems = " ".join(check(folder, half).problems)
    assert "layers.0.self_attn.q_proj.lora_B.weight" in problems
    assert "too large for float16" in problems
    assert "OVERTONE_DTYPE=bfloat16" in problems


@pytest.mark.parametrize("pattern", SLOW)
@pytest.mark.parametrize("option", ["rank_pattern", "alpha_pattern"])
def test_patterns_that_search_for_long_end_in_time_and_let_others_run(option, pattern, copy, loaded):
    """`re` takes minutes for some of these, and holds the interpreter's lock meanwhile."""
    ticks, over = [], threading.Event()

    def tick():
        while not over.wait(0.01):
            ticks.append(time.monotonic())

    other = threading.Thread(target=tick)
    other.start()
    begun = time.monotonic()
    report = check(copy(**{option: {pattern: 4}}), loaded)
    took = time.monotonic() - begun
    over.set()
    other.join()
    assert took < 30
    assert max((b - a for a, b in itertools.pairwise(ticks)), default=0) < 5
    assert report.ok or "more than a layer's name needs" in " ".join(report.problems)


def test_no_pattern_is_endless(copy, loaded):
    assert "layer's name needs" in " ".join(check(copy(rank_pattern={"x" * 2000: 4}), loaded).problems)
    many = {f"layer{index}": 4 for index in range(2000)}
    assert "more than 1024" in " ".join(check(copy(alpha_pattern=many), loaded).problems)


@pytest.mark.parametrize("pattern", [*SLOW, "(?=a)b", "(", "^(?!.*(?:tower|projector)).*layers.[0-2].*(?:v_proj).*"])
@pytest.mark.parametrize("option", ["target_modules", "exclude_modules", "layers_pattern"])
def test_the_tensors_name_the_layers_whatever_expression_chose_them(option, pattern, copy, loaded):
    """PEFT would match these on the engine's own thread; it gets the layers' names instead."""
    for kind in ("dora", "qv"):
        folder = copy(kind, **{option: pattern})
        begun = time.monotonic()
        report = check(folder, loaded)
        assert time.monotonic() - begun < 30
        assert report.problems == []
        if kind == "dora":
            owners = {path for path, _ in loaded.model.named_modules() if path}
            wrapped = wrap(copying.deepcopy(loaded.model), read_plain(folder, "adapter_model.safetensors", owners))
            assert same_layers(wrapped, folder)


def same_layers(wrapped, folder):
    from peft.tuners.lora import LoraLayer

    found = {path for path, module in wrapped.base_model.model.named_modules() if isinstance(module, LoraLayer)}
    return found == {path.partition(".lora_")[0] for path in tensor_paths(folder)}


def test_patterns_of_adapters_served_alone(copy, loaded):
    both = r"(.*language_model.*\.(q_proj|v_proj))|(.*audio_tower.*\.(q_proj|v_proj))"
    for pattern in (both, r".*\.[qv]_proj", ["q_proj", "v_proj"]):
        assert check(copy("dora", target_modules=pattern), loaded).ok


@pytest.mark.parametrize("pattern", [r"layers\.0\..*q_proj", r"layers.[01].self_attn.(q|v)_proj", "^model.*q_proj"])
def test_patterns_that_peft_writes_and_people_use_are_taken(pattern, copy, loaded):
    assert "pattern" not in " ".join(check(copy(rank_pattern={pattern: 4}), loaded).problems)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_a_configuration_that_is_none(text, copy, loaded):
    folder = copy()
    (folder / "adapter_config.json").write_text(text)
    assert "adapter_config.json" in check(folder, loaded).problems[0]


def test_pickles_are_left_aside_and_named_where_they_are_all_there_is(copy, loaded):
    folder = copy()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({}))
    (folder / "training_args.bin").write_bytes(pickle.dumps({}))
    assert check(folder, loaded).ok
    (folder / "adapter_model.safetensors").unlink()
    (problem,) = check(folder, loaded).problems
    assert "adapter_model.bin is a pickle" in problem
    assert "safe_serialization=True" in problem
    assert "training_args" not in problem
    disguised = copy()
    (disguised / "adapter_model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    assert "no readable safetensors" in check(disguised, loaded).problems[0]
    cut = copy()
    whole = (cut / "adapter_model.safetensors").read_bytes()
    (cut / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cut off" in check(cut, loaded).problems[0]


def test_another_base_and_damage_are_told_by_the_manifest(copy, loaded):
    folder = copy()
    base = BaseModelRef(name="other", fingerprint="0" * 64)
    (folder / "manifest.json").write_text(dump_manifest(Manifest(name="x", base=base)))
    assert "'other' with other weights" in check(folder, loaded).problems[0]
    base = BaseModelRef(name="random", fingerprint=loaded.spec.fingerprint)
    manifest = Manifest(name="x", base=base, files={"adapter_model.safetensors": "0" * 64})
    (folder / "manifest.json").write_text(dump_manifest(manifest))
    assert "damaged" in check(folder, loaded).problems[0]


def test_weights_of_the_base_are_never_overwritten(copy, loaded):
    def add(tensors):
        tensors["base_model.model.lm_head.weight"] = torch.zeros(loaded.spec.parameters["lm_head.weight"])

    assert "overwrite" in check(copy(tensors=add), loaded).problems[0]
    assert "overwrite" in check(copy("dora", tensors=add), loaded).problems[0]


@pytest.mark.parametrize("kind", sorted(ALONE))
def test_plain_peft_over_a_shell_leaves_the_base_untouched(kind, folders, loaded):
    before = combine_checksums(weight_checksums(loaded.model))
    shell = shell_of(loaded.model, own=tensor_paths(folders[kind]))
    PeftModel.from_pretrained(shell, str(folders[kind]), autocast_adapter_dtype=False)
    assert combine_checksums(weight_checksums(loaded.model)) == before


@pytest.mark.parametrize("kind", ["qv", "rslora", "ranks", "everything", "tower", "head"])
def test_weights_and_scaling_are_peft_s(kind, folders, loaded):
    model = PeftModel.from_pretrained(copying.deepcopy(loaded.model), str(folders[kind]), autocast_adapter_dtype=False)
    weights = read_weights(folders[kind])
    assert len(weights.lora) > 0
    for path, pair in weights.lora.items():
        layer = model.base_model.model.get_submodule(path)
        assert pair.scaling == layer.scaling["default"]
        torch.testing.assert_close(pair.scaling * pair.b @ pair.a, layer.get_delta_weight("default"))
    assert weights.rank == max(pair.a.shape[0] for pair in weights.lora.values())


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("base_model.model.language_model.model.layers.3.self_attn.q_proj.lora_A.weight",
         "model.language_model.layers.3.self_attn.q_proj.lora_A.weight"),
        ("base_model.model.audio_tower.layers.0.fc1.lora_B.weight", "model.audio_tower.layers.0.fc1.lora_B.weight"),
        ("base_model.model.multi_modal_projector.linear.weight", "model.multi_modal_projector.linear.weight"),
        ("base_model.model.language_model.lm_head.lora_A.weight", "lm_head.lora_A.weight"),
        ("base_model.model.model.language_model.layers.0.mlp.up_proj.base_layer.bias",
         "model.language_model.layers.0.mlp.up_proj.bias"),
    ],
)  # fmt: skip
def test_paths_of_older_transformers_are_understood(key, path):
    assert module_path(key) == path


def test_an_adapter_of_older_transformers_is_the_same(copy, loaded, folders):
    old = copy(tensors=rename("base_model.model.model.language_model.", "base_model.model.language_model.model."))
    assert check(old, loaded).problems == []
    new, renamed = read_weights(folders["qv"]), read_weights(old)
    assert new.lora.keys() == renamed.lora.keys()


def test_a_foreign_base_name_is_a_warning_only(tmp_path, loaded):
    folder = make_adapter(loaded, tmp_path / "a", 1, target_modules=QV)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "someone/else"}))
    report = check(folder, loaded)
    assert report.problems == []
    assert "someone/else" in report.warnings[0]
