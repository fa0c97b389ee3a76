"""Every tuner of PEFT, trained over a model of any layout: served as it was trained, or refused by name.

The reference is the adapter where it was trained: PEFT around a model that has the older module paths.
"""

import json
from collections.abc import Callable

import peft
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from peft import PeftConfig
from safetensors.torch import load_file, save_file

from app.engine.lora.peft_fallback import shell_of
from app.errors import BadRequest
from app.registry.adapter_files.plain_peft import read_plain, wrap
from app.registry.adapter_files.tuners import REFUSED, SERVED
from app.registry.adapter_files.validate import validate
from app.registry.adapter_files.weights import read_weights
from tests.layouts import LAYOUTS, PATHS, WEIGHTS, Older, logits, save, trained
from tests.support import oracle_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # PEFT's, about choices made here on purpose
]
T = ["q_proj", "v_proj", "up_proj"]
EVERYWHERE = r".*\.(q_proj|fc1|linear|down_proj)"
TUNERS: dict[str, Callable[[], PeftConfig]] = {
    "lora": lambda: peft.LoraConfig(r=4, target_modules=EVERYWHERE),
    "lora-patterns": lambda: peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=T,
        rank_pattern={r"layers\.0\..*q_proj": 7, "v_proj": 3},
        alpha_pattern={"up_proj": 24, r"layers\.[12]\.self_attn\.(q|v)_proj": 12},
    ),
    "rslora": lambda: peft.LoraConfig(r=4, target_modules=T, use_rslora=True, rank_pattern={"up_proj": 9}),
    "dora": lambda: peft.LoraConfig(r=4, target_modules=T, use_dora=True, alpha_pattern={"q_proj": 40}),
    "lora-bias": lambda: peft.LoraConfig(r=4, target_modules=T, lora_bias=True),
    "bias-only": lambda: peft.LoraConfig(r=4, target_modules=T, bias="lora_only"),
    "bias-all": lambda: peft.LoraConfig(r=4, target_modules=T, bias="all"),
    "embedding": lambda: peft.LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]),
    "head": lambda: peft.LoraConfig(r=4, target_modules=["lm_head"]),
    "saved-projector": lambda: peft.LoraConfig(r=4, target_modules=T, modules_to_save=["multi_modal_projector"]),
    "saved-head": lambda: peft.LoraConfig(r=4, target_modules=T, modules_to_save=["lm_head"]),
    "saved-norm": lambda: peft.LoraConfig(r=4, target_modules=T, modules_to_save=["input_layernorm"]),
    "tokens-in-lora": lambda: peft.LoraConfig(r=4, target_modules=T, trainable_token_indices=[1, 2, 65]),
    "layers": lambda: peft.LoraConfig(r=4, target_modules=T, layers_to_transform=[0, 1], layers_pattern="layers"),
    "excluded": lambda: peft.LoraConfig(r=4, target_modules=T, exclude_modules=r".*layers\.1\..*"),
    "adalora": lambda: peft.AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=T),
    "beft": lambda: peft.BeftConfig(target_modules=["q_proj"]),
    "boft": lambda: peft.BOFTConfig(target_modules=T, boft_block_size=4),
    "c3a": lambda: peft.C3AConfig(
        block_size=8, target_modules=["q_proj"], block_size_pattern={"layers.1.self_attn.q_proj": 16}
    ),
    "deft": lambda: peft.DeftConfig(r=4, target_modules=T),
    "deft-qr": lambda: peft.DeftConfig(r=4, target_modules=T, decomposition_method="qr"),
    "delora": lambda: peft.DeloraConfig(
        r=4, target_modules=T, rank_pattern={"q_proj": 6}, lambda_pattern={"q_proj": 3}
    ),
    "fourierft": lambda: peft.FourierFTConfig(n_frequency=50, target_modules=T, n_frequency_pattern={"up_proj": 20}),
    "glora": lambda: peft.GloraConfig(r=4, target_modules=T),
    "gralora": lambda: peft.GraloraConfig(r=8, target_modules=T),
    "hira": lambda: peft.HiraConfig(r=4, target_modules=T, rank_pattern={"up_proj": 6}),
    "hra": lambda: peft.HRAConfig(r=4, target_modules=T),
    "ia3": lambda: peft.IA3Config(
        target_modules=["k_proj", "down_proj", "fc2"], feedforward_modules=["down_proj", "fc2"]
    ),
    "ln": lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "layer_norm"]),
    "loha": lambda: peft.LoHaConfig(r=4, target_modules=T, alpha_pattern={"q_proj": 32}, rank_pattern={"q_proj": 3}),
    "lokr": lambda: peft.LoKrConfig(r=4, target_modules=T, alpha_pattern={"layers.1.self_attn.q_proj": 32}),
    "miss": lambda: peft.MissConfig(r=4, target_modules=T),
    "miss-bat": lambda: peft.MissConfig(r=4, target_modules=T, init_weights="bat"),
    "oft": lambda: peft.OFTConfig(target_modules=T),
    "oft-blocks": lambda: peft.OFTConfig(target_modules=T, r=4, oft_block_size=0),
    "peanut": lambda: peft.PeanutConfig(r=4, target_modules=T),
    "pvera": lambda: peft.PveraConfig(r=8, target_modules=T),
    "randlora": lambda: peft.RandLoraConfig(r=8, target_modules=T),
    "randlora-unsaved": lambda: peft.RandLoraConfig(r=8, target_modules=T, save_projection=False),
    "road": lambda: peft.RoadConfig(target_modules=["q_proj"], group_size=32),
    "shira": lambda: peft.ShiraConfig(r=4, target_modules=T),
    "tokens": lambda: peft.TrainableTokensConfig(token_indices=[1, 2, 65], target_modules=["embed_tokens"]),
    "vblora": lambda: peft.VBLoRAConfig(r=4, num_vectors=16, vector_length=8, topk=2, target_modules=T),
    "vblora-topk": lambda: peft.VBLoRAConfig(
        r=4, num_vectors=16, vector_length=8, topk=2, target_modules=T, save_only_topk_weights=True
    ),
    "vera": lambda: peft.VeraConfig(r=8, target_modules=T),
    "vera-unsaved": lambda: peft.VeraConfig(r=8, target_modules=T, save_projection=False),
    "waveft": lambda: peft.WaveFTConfig(n_frequency=50, target_modules=T),
}


def owners(loaded):
    return {path for path, _ in loaded.model.named_modules() if path}


def check(folder, loaded):
    return validate(folder, loaded.spec, max_rank=64)


def served(folder, loaded):
    """The adapter as the engine's path for plain PEFT holds it, over a shell of the base."""
    plain = read_plain(folder, WEIGHTS, owners(loaded))
    return wrap(shell_of(loaded.model, own=plain.paths), plain)


def batched(folder, loaded):
    """The model with what the batched path adds, folded into its weights."""
    model, weights = oracle_model(loaded), read_weights(folder)
    for path, pair in weights.lora.items():
        model.get_submodule(path).weight.data += pair.scaling * pair.b @ pair.a
    for path, tensor in weights.projector.items():
        model.get_parameter(path).data = tensor
    return model


def same_as_trained(reference, folder, loaded):
    report = check(folder, loaded)
    assert report.problems == []
    torch.testing.assert_close(logits(served(folder, loaded), loaded), reference, rtol=1e-4, atol=1e-4)
    if report.serving == "batched":
        torch.testing.assert_close(logits(batched(folder, loaded), loaded), reference, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", TUNERS)
def test_an_adapter_of_any_tuner_and_layout_is_served_as_it_was_trained(kind, layout, loaded, tmp_path):
    model = trained(loaded, layout, TUNERS[kind]())
    reference = logits(model, loaded)
    assert (reference - logits(loaded.model, loaded)).abs().max() > 1e-2
    same_as_trained(reference, save(model, tmp_path / kind), loaded)


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr", "saved-projector", "bias-only", "tokens-in-lora"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_without_peft_s_prefix_means_the_same(kind, layout, loaded, tmp_path):
    model = trained(loaded, layout, TUNERS[kind]())
    same_as_trained(logits(model, loaded), save(model, tmp_path / kind, prefix=False), loaded)


def test_adalora_after_its_budget_was_spent(loaded, tmp_path):
    config = peft.AdaLoraConfig(init_r=6, target_r=3, total_step=4, tinit=1, tfinal=1, deltaT=1, target_modules=T)
    model = trained(loaded, "older", config)
    for step in range(1, 5):
        logits(model, loaded)
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn_like(parameter) if "lora_" in name else None
        model.base_model.update_and_allocate(step)
    folder = save(model.eval(), tmp_path / "a")
    written = json.loads((folder / "adapter_config.json").read_text())["rank_pattern"]
    assert any(False in mask for mask in written.values())
    again = peft.PeftModel.from_pretrained(Older(oracle_model(loaded)), str(folder), autocast_adapter_dtype=False)
    same_as_trained(logits(again.eval(), loaded), folder, loaded)


PATTERNS = st.sampled_from(
    ["q_proj", "{}0.self_attn.q_proj", r"{}[01].self_attn.(q|v)_proj", "{}2.mlp.up_proj", "^{}1.*"]
)


@settings(max_examples=20, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    tuner=st.sampled_from([peft.LoraConfig, peft.LoHaConfig, peft.LoKrConfig]),
    ranks=st.dictionaries(PATTERNS, st.integers(1, 6), max_size=3),
    alphas=st.dictionaries(PATTERNS, st.integers(1, 40), max_size=3),
    targets=st.sampled_from(
        [T, r".*layers\.\d\..*(q_proj|v_proj)", "{}0.self_attn.q_proj", r"^{}\d\.(?:self_attn|mlp).*proj$"]
    ),
    dora=st.booleans(),
    prefix=st.booleans(),
)
def test_patterns_mean_what_they_meant_in_training(
    layout, tuner, ranks, alphas, targets, dora, prefix, loaded, tmp_path_factory
):
    spelled = lambda text: text.replace("{}", PATHS[layout])  # noqa: E731
    config = tuner(
        r=4,
        target_modules=spelled(targets) if isinstance(targets, str) else targets,
        rank_pattern=dict(sorted((spelled(pattern), rank) for pattern, rank in ranks.items())),
        alpha_pattern=dict(sorted((spelled(pattern), alpha) for pattern, alpha in alphas.items())),
        **({"use_dora": dora} if tuner is peft.LoraConfig else {}),
    )
    model = trained(loaded, layout, config)
    same_as_trained(logits(model, loaded), save(model, tmp_path_factory.mktemp("a") / "a", prefix), loaded)


def edit(folder, tensors=None, **fields):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    if tensors:
        held = load_file(folder / WEIGHTS)
        tensors(held)
        save_file(held, folder / WEIGHTS)
    return folder


def test_a_file_translated_by_halves_is_refused(loaded, tmp_path):
    """Tensors of one layout, a pattern of another: whether the pattern counted in training cannot be told."""
    older, today = f"{PATHS['older']}0.self_attn.q_proj", f"{PATHS['today']}0.self_attn.q_proj"
    for layout, pattern in (("older", today), ("today", older)):
        model = trained(loaded, layout, peft.LoraConfig(r=4, target_modules=T))
        folder = edit(save(model, tmp_path / layout), alpha_pattern={pattern: 99})
        (problem,) = check(folder, loaded).problems
        assert "alpha_pattern" in problem
        assert pattern in problem
        assert "it is not known" in problem
        assert check(edit(folder, alpha_pattern={"o_proj": 99}), loaded).ok  # it fits nothing in any layout


def test_ranks_show_in_the_tensors_whatever_layout_their_pattern_has(loaded, tmp_path):
    model = trained(
        loaded, "older", peft.LoraConfig(r=4, target_modules=T, rank_pattern={f"{PATHS['older']}0.self_attn.q_proj": 7})
    )
    folder = edit(save(model, tmp_path / "a"), rank_pattern={f"{PATHS['today']}0.self_attn.q_proj": 7})
    same_as_trained(logits(model, loaded), folder, loaded)


def test_patterns_that_peft_has_put_into_another_order(loaded, tmp_path):
    """It sorts them when it saves: ranks show in the tensors, alphas do not, and that is told."""
    two = {"q_proj": 3, "layers.0.self_attn.q_proj": 5}
    model = trained(loaded, "older", peft.LoraConfig(r=4, target_modules=T, rank_pattern=two))
    folder = save(model, tmp_path / "ranks")
    assert list(json.loads((folder / "adapter_config.json").read_text())["rank_pattern"]) == sorted(two)
    same_as_trained(logits(model, loaded), folder, loaded)
    folder = save(
        trained(loaded, "older", peft.LoraConfig(r=4, target_modules=T, alpha_pattern=two)), tmp_path / "alphas"
    )
    report = check(folder, loaded)
    assert report.ok
    assert "several patterns" in " ".join(report.warnings)


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "lokr", "vera", "saved-head", "ln", "tokens-in-lora"])
def test_one_tensor_less_is_a_refusal(kind, loaded, tmp_path):
    folder = save(trained(loaded, "older", TUNERS[kind]()), tmp_path / kind)
    whole = load_file(folder / WEIGHTS)
    for key in sorted(whole)[:: max(1, len(whole) // 6)]:
        save_file({other: tensor for other, tensor in whole.items() if other != key}, folder / WEIGHTS)
        report = check(folder, loaded)
        assert report.problems or "no tensors for" in " ".join(report.warnings), key


@pytest.mark.parametrize("kind", ["dora", "ia3", "lokr", "vera", "bias-only"])
def test_a_tensor_that_plain_peft_would_leave_out_is_a_refusal(kind, loaded, tmp_path):
    folder = save(trained(loaded, "today", TUNERS[kind]()), tmp_path / kind)
    whole = load_file(folder / WEIGHTS)
    key = sorted(whole)[0]
    save_file(whole | {key + "_more": whole[key].clone()}, folder / WEIGHTS)
    assert check(folder, loaded).problems
    with pytest.raises(BadRequest):
        served(folder, loaded)


def test_one_layer_under_two_names_is_refused(loaded, tmp_path):
    folder = save(trained(loaded, "today", peft.LoraConfig(r=4, target_modules=T)), tmp_path / "a")
    for other in ("base_model.model.language_model.model.", "model.language_model."):
        key = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
        twin = other + key.partition("language_model.")[2]
        whole = load_file(folder / WEIGHTS)
        save_file(whole | {twin: whole[key].clone()}, folder / WEIGHTS)
        (problem,) = check(folder, loaded).problems
        assert twin in problem
        assert "2 names" in problem
        save_file(whole, folder / WEIGHTS)


def test_every_tuner_of_this_peft_is_served_or_refused_by_name(folders, loaded, copy):
    known = {kind.value for kind in peft.PeftType}
    assert known <= SERVED.keys() | REFUSED.keys()
    assert not SERVED.keys() & REFUSED.keys()
    assert {make().peft_type.value for make in TUNERS.values()} == set(SERVED)
    for kind, reason in REFUSED.items():
        (problem,) = check(copy(peft_type=kind), loaded).problems
        assert kind in problem
        assert reason in problem


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_type": "VERA", "r": 10**9}, "r: 1000000000 is more than"),
        ({"peft_type": "VERA", "r": 300}, "rank 300 exceeds"),
        ({"peft_type": "LOKR", "rank_pattern": {"q_proj": 65}}, "rank 65 exceeds"),
        ({"peft_type": "LOHA", "r": 2**63}, "is more than"),
        ({"peft_type": "OFT", "oft_block_size": 10**8}, "oft_block_size"),
        ({"peft_type": "PEANUT", "depth": 10**4}, "depth"),
        ({"peft_type": "HRA", "r": -1}, "r:"),
        ({"peft_type": "HIRA", "rank_pattern": {"q_proj": "x"}}, "rank_pattern"),
        ({"peft_type": "FOURIERFT", "n_frequency": 2**60}, "n_frequency"),
        ({"peft_type": "FOURIERFT", "n_frequency_pattern": {"q_proj": 2**60}}, "n_frequency"),
        ({"peft_type": "LOKR", "alpha": float("inf")}, "not finite"),
        ({"peft_type": "PVERA", "sample_at_inference": True}, "at random"),
        ({"target_modules": [f"zz{i}" for i in range(20_000)]}, "20000 names"),
        ({"exclude_modules": [f"zz{i}" for i in range(20_000)]}, "20000 names"),
        ({"target_modules": "x" * 100_000}, "characters"),
        ({"modules_to_save": ["x" * 100_000]}, "characters"),
        ({"use_qalora": True}, "use_qalora"),
        ({"kasa_config": {"a": 1}}, "kasa_config"),
        ({"arrow_config": {"top_k": 2}}, "arrow_config"),
        ({"use_bdlora": {"a": 1}}, "use_bdlora"),
        ({"monteclora_config": {"a": 1}}, "monteclora_config"),
        ({"init_lora_weights": "milora"}, "changes the base"),
    ],
)
def test_numbers_and_options_out_of_bounds(fields, words, copy, loaded):
    assert words in " ".join(check(copy(**fields), loaded).problems)


def test_fields_that_this_peft_does_not_know_are_told(copy, loaded):
    report = check(copy(use_something_new=True, gone=None), loaded)
    assert report.ok
    assert "use_something_new" in " ".join(report.warnings)
    assert "gone" not in " ".join(report.warnings)


def test_places_beyond_a_layer_are_refused(loaded, tmp_path):
    """On a GPU one such index ends every request."""
    folder = save(trained(loaded, "today", TUNERS["shira"]()), tmp_path / "s")

    def spoil(tensors):
        key = next(key for key in tensors if key.endswith("shira_indices"))
        tensors[key][0, 0] = 10**6

    assert "beyond its layer" in " ".join(check(edit(folder, spoil), loaded).problems)
    for bad in ([1, 2, 10**6], [1, 2, -1], [1, 2], "x", [1, 2, "x"]):
        folder = save(trained(loaded, "today", TUNERS["tokens"]()), tmp_path / "t")
        assert check(edit(folder, token_indices=bad), loaded).problems, bad


def test_layers_that_the_file_lacks_are_told(loaded, tmp_path):
    folder = save(trained(loaded, "older", peft.LoraConfig(r=4, target_modules=T)), tmp_path / "a")
    whole = load_file(folder / WEIGHTS)
    save_file({key: tensor for key, tensor in whole.items() if "audio_tower" not in key}, folder / WEIGHTS)
    assert (check(folder, loaded).ok, check(folder, loaded).warnings) == (True, [])
    save_file({key: tensor for key, tensor in whole.items() if "model.layers.1." not in key}, folder / WEIGHTS)
    report = check(folder, loaded)
    assert report.ok
    (told,) = report.warnings
    assert "target_modules names 3 layers" in told
    assert "language_model.model.layers.1.self_attn.q_proj" in told
    assert "incomplete" in told
    names = [
        f"model.layers.{layer}.{name}"
        for layer in (0, 2)
        for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
    ]
    names += [f"audio_tower.layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")]
    assert check(edit(folder, target_modules=names), loaded).warnings == []
