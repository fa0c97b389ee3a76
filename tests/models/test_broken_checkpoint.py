"""Weights and configurations that are broken are refused by name, before any weight is read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from app.errors import ModelRejected
from app.models.loading import LoadedModel, load
from tests.models.broken import (
    CPU,
    CUT,
    INDEX,
    POINTER,
    WEIGHTS,
    Damage,
    config,
    edit_json,
    in_layout,
    instead,
    name_in,
    refusal,
    remove,
    rewrite,
    shard,
    write,
    write_weights,
)

NORM = "model.language_model.norm.weight"
LAYER = "language_model.model.layers.1.mlp.up_proj.weight"


def _cut(folder: Path, _: LoadedModel) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-4])


LORA = {"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen2-Audio-7B-Instruct"}
BROKEN: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "a tensor is missing": (rewrite(lambda t: t.pop(LAYER)), (WEIGHTS, LAYER, "1 of the")),
    "many are missing": (
        rewrite(lambda t: [t.pop(name) for name in list(t) if "layers.1." in name and "language" in name]),
        ("language_model.model.layers.1.self_attn.q_proj.weight", "and 9 more (12 of the", "config.json"),
    ),
    "the tower is missing": (
        rewrite(lambda t: [t.pop(name) for name in list(t) if name.startswith("audio_tower")]),
        ("audio_tower.conv1.weight", "more"),
    ),
    "the head is missing": (
        rewrite(lambda t: t.pop("language_model.lm_head.weight")),
        (WEIGHTS, "language_model.lm_head.weight", "tied head"),
    ),
    "an unknown tensor": (
        rewrite(lambda t: t.update({"language_model.model.layers.3.mlp.up_proj.weight": torch.ones(96, 64)})),
        ("language_model.model.layers.3.mlp.up_proj.weight", WEIGHTS, "no place"),
    ),
    "a tensor of LoRA inside": (
        rewrite(lambda t: t.update({LAYER.replace("weight", "lora_A.weight"): torch.ones(4, 64)})),
        ("lora_A", "no place"),
    ),
    "another shape": (rewrite(lambda t: t.update({LAYER: torch.ones(96, 63)})), (LAYER, "[96, 63]", "[96, 64]")),
    "transposed": (rewrite(lambda t: t.update({LAYER: t[LAYER].T.contiguous()})), (LAYER, "[64, 96]", "[96, 64]")),
    "NaN": (rewrite(lambda t: t[LAYER].view(-1)[3].fill_(torch.nan)), (WEIGHTS, LAYER, "NaN")),
    "infinity": (rewrite(lambda t: t[LAYER].view(-1)[-1].fill_(-torch.inf)), (WEIGHTS, LAYER, "infinity")),
    "integers": (rewrite(lambda t: t.update({LAYER: t[LAYER].to(torch.int8)})), (LAYER, "I8", "F16")),
    "float8": (rewrite(lambda t: t.update({LAYER: t[LAYER].to(torch.float8_e4m3fn)})), (LAYER, "F8_E4M3")),
    "two layouts": (
        rewrite(lambda t: t.update({name_in("today", NORM): t["language_model.model.norm.weight"].clone()})),
        ("language_model.model.norm.weight", NORM, "twice"),
    ),
    "cut off at the end": (_cut, (WEIGHTS, "cut off")),
    "more at the end": (
        lambda folder, _: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b"12345"),
        (WEIGHTS, "5 bytes"),
    ),
    "empty": (write(WEIGHTS, b""), (WEIGHTS, "0 bytes")),
    "seven bytes": (write(WEIGHTS, b"1234567"), (WEIGHTS, "7 bytes")),
    "no safetensors": (write(WEIGHTS, b"PK\x03\x04" * 99), (WEIGHTS, "no safetensors")),
    "a pointer of Git LFS": (write(WEIGHTS, POINTER), (WEIGHTS, "Git LFS", "git lfs pull")),
    "a web page": (write(WEIGHTS, b"<!DOCTYPE html><html>Sign in</html>"), (WEIGHTS, "web page")),
    "a dangling link": (
        lambda folder, _: [(folder / WEIGHTS).unlink(), (folder / WEIGHTS).symlink_to("../blobs/gone")],
        (WEIGHTS, "link"),
    ),
    "pickled alone": (instead("pytorch_model.bin"), ("pytorch_model.bin", "safetensors", "save_pretrained")),
    "GGUF alone": (instead("model-Q4_K_M.gguf"), ("model-Q4_K_M.gguf", "safetensors")),
    "a shard without its index": (instead(shard(0, 2)), (shard(0, 2), INDEX)),
    "no weights": (remove(WEIGHTS), ("no weights", WEIGHTS)),
    "an adapter": (
        lambda folder, _: [
            (folder / "adapter_config.json").write_text(json.dumps(LORA)),
            (folder / WEIGHTS).rename(folder / "adapter_model.safetensors"),
            (folder / "config.json").unlink(),
        ],
        ("adapter_config.json", "Qwen/Qwen2-Audio-7B-Instruct", "overtone adapters add"),
    ),
    "an adapter in the model's folder": (
        lambda folder, _: (folder / "adapter_config.json").write_text(json.dumps(LORA)),
        ("adapter_config.json",),
    ),
    "no configuration": (remove("config.json"), ("config.json",)),
    "a configuration that is no JSON": (write("config.json", b"{"), ("config.json", "JSON")),
    "a configuration of Git LFS": (write("config.json", POINTER), ("config.json", "Git LFS")),
    "a list as configuration": (write("config.json", b"[]"), ("config.json",)),
    "another model": (
        lambda folder, _: (folder / "config.json").write_text(
            json.dumps({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 64})
        ),
        ("config.json", "'qwen2'", "qwen2_audio"),
    ),
    "another architecture": (
        config(lambda c: c.update(architectures=["Qwen2AudioForSequenceClassification"])),
        ("config.json", "Qwen2AudioForSequenceClassification"),
    ),
    "another language model": (
        config(lambda c: c["text_config"].update(model_type="llama")), ("text_config", "llama"),
    ),
    "another tower": (config(lambda c: c["audio_config"].update(model_type="whisper")), ("audio_config", "whisper")),
    "no tower": (config(lambda c: c.pop("audio_config")), ("config.json", "audio_config")),
    "quantized": (
        config(lambda c: c.update(quantization_config={"quant_method": "gptq", "bits": 4})), ("config.json", "GPTQ"),
    ),
    "sliding windows": (
        config(lambda c: c["text_config"].update(layer_types=["sliding_attention"] * 3)), ("sliding_attention",),
    ),
    "a width that disagrees": (
        config(lambda c: c["text_config"].update(intermediate_size=128)),
        (WEIGHTS, "language_model.model.layers.0.mlp.gate_proj.weight", "[96, 64]", "[128, 64]", "9 in all"),
    ),
    "more layers than weights": (
        config(lambda c: c["text_config"].update(num_hidden_layers=4, layer_types=["full_attention"] * 4)),
        ("language_model.model.layers.3.", "lacks"),
    ),
    "fewer layers than weights": (
        config(lambda c: c["text_config"].update(num_hidden_layers=2, layer_types=["full_attention"] * 2)),
        ("language_model.model.layers.2.", "no place"),
    ),
    "heads that disagree": (
        config(lambda c: c["text_config"].update(num_key_value_heads=1)), ("k_proj.weight", "[32, 64]", "[16, 64]"),
    ),
    "a window that disagrees": (
        config(lambda c: c["audio_config"].update(max_source_positions=1500)),
        ("audio_tower.embed_positions.weight", "[100, 32]", "[1500, 32]"),
    ),
    "an absurd number of layers": (
        config(lambda c: c["text_config"].update(num_hidden_layers=10**9)), ("config.json",),
    ),
    "a number that is text": (
        config(lambda c: c["text_config"].update(hidden_size="wide")), ("config.json", "hidden_size"),
    ),
    "an unknown activation": (config(lambda c: c["text_config"].update(hidden_act="smile")), ("config.json", "smile")),
    "tied, with a head of its own": (
        config(lambda c: c.update(tie_word_embeddings=True)),
        ("config.json", "tie_word_embeddings", "language_model.lm_head.weight", WEIGHTS),
    ),
    "tied inside, with a head of its own": (
        config(lambda c: c["text_config"].update(tie_word_embeddings=True)),
        ("config.json", "tie_word_embeddings", "language_model.lm_head.weight"),
    ),
    "weights under another name": (
        config(lambda c: c.update(transformers_weights="other.safetensors")), ("transformers_weights",),
    ),
}  # fmt: skip
AFTERWARDS = {"NaN", "infinity"}  # told by the values, so only once they are loaded


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_folder_is_refused_by_name(kind: str, whole: Path, loaded: LoadedModel) -> None:
    damage, words = BROKEN[kind]
    damage(whole, loaded)
    if kind in AFTERWARDS:
        with pytest.raises(ModelRejected) as caught:
            load(str(whole), CPU, torch.float32)
        said = str(caught.value)
    else:
        said = refusal(whole)
    assert said.startswith("The model the-base could not be loaded: ")
    assert [word for word in words if word not in said] == [], said


def test_values_beyond_the_dtype_are_told_with_the_setting(folder: Path, loaded: LoadedModel) -> None:
    tensors = in_layout(loaded.model, "hub")
    tensors[LAYER][0, 0] = 1e5
    write_weights(folder, tensors)
    load(str(folder), CPU, torch.float32)
    with pytest.raises(ModelRejected, match=f"{LAYER} in {WEIGHTS}.*float16.*OVERTONE_DTYPE"):
        load(str(folder), CPU, torch.float16)


def test_a_missing_shard(sharded: Path) -> None:
    (sharded / shard(1, CUT)).unlink()
    assert f"{INDEX} names {shard(1, CUT)}: 1 of 3 files are missing" in refusal(sharded)


def test_a_cut_shard(sharded: Path) -> None:
    file = sharded / shard(2, CUT)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    said = refusal(sharded)
    assert f"{shard(2, CUT)} is cut off: {len(data) // 2} of {len(data)} bytes" in said


def test_a_shard_of_git_lfs(sharded: Path) -> None:
    (sharded / shard(2, CUT)).write_bytes(POINTER)
    assert f"{shard(2, CUT)} is a Git LFS pointer" in refusal(sharded)


def test_a_shard_of_another_download(sharded: Path) -> None:
    """The second shard's file under the third's name: its tensors are there twice, and others not at all."""
    shutil.copy(sharded / shard(1, CUT), sharded / shard(2, CUT))
    said = refusal(sharded)
    assert INDEX in said
    assert f"in {shard(2, CUT)}" in said
    assert "not there" in said


def test_a_tensor_in_two_shards(sharded: Path, loaded: LoadedModel) -> None:
    tensors = in_layout(loaded.model, "hub")
    names = sorted(tensors)
    part = {name: tensors[name] for name in names if names.index(name) * CUT // len(names) == 2}
    save_file(part | {names[0]: torch.zeros_like(tensors[names[0]])}, sharded / shard(2, CUT), {"format": "pt"})
    said = refusal(sharded)
    assert f"{names[0]} in {shard(0, CUT)} and {names[0]} in {shard(2, CUT)}" in said


def test_an_index_that_names_a_tensor_that_is_not_there(sharded: Path) -> None:
    edit_json(sharded / INDEX, lambda index: index["weight_map"].update({"language_model.model.gone": shard(0, CUT)}))
    assert f"language_model.model.gone in {shard(0, CUT)} (1 in all)" in refusal(sharded)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/passwd", "model.bin"])
def test_an_index_that_leaves_the_folder(name: str, sharded: Path) -> None:
    edit_json(sharded / INDEX, lambda index: index["weight_map"].update({LAYER: name}))
    said = refusal(sharded)
    assert INDEX in said
    assert name in said


@pytest.mark.parametrize("content", [b"", b"{}", b'{"weight_map": {}}', b'{"weight_map": {"a": 1}}', POINTER])
def test_an_index_that_is_none(content: bytes, sharded: Path) -> None:
    (sharded / INDEX).write_bytes(content)
    assert INDEX in refusal(sharded)


def test_one_file_beside_other_shards(sharded: Path, loaded: LoadedModel) -> None:
    write_weights(sharded, in_layout(loaded.model, "today"))
    said = refusal(sharded)
    assert WEIGHTS in said
    assert INDEX in said
