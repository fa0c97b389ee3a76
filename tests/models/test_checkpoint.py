"""A base model is read in every layout as plain transformers reads it, and compared with its files afterwards."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2AudioForConditionalGeneration

from app.errors import ModelRejected
from app.models.loading import LoadedModel, load, spec_of
from app.models.weights.checkpoint import open_checkpoint
from app.models.weights.loaded_weights import check_loading, check_weights
from app.settings import EMBEDDED_MODEL
from tests.models.broken import CPU, CUT, LAYOUTS, WEIGHTS, edit_json, in_layout, name_in, shard, write_weights
from tests.support import oracle_model, tone

pytestmark = pytest.mark.slow


def logits(model: Any, processor: Any) -> torch.Tensor:
    text = "<|audio_bos|><|AUDIO|><|audio_eos|>what?"
    inputs = processor(text=text, audio=[tone(300, 1.0)], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        found: torch.Tensor = model(**inputs).logits
    return found


@pytest.mark.parametrize("buffers", [False, True])
@pytest.mark.parametrize("shards", [1, CUT])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_intact_folders_answer_as_plain_transformers(
    layout: str, shards: int, buffers: bool, folder: Path, loaded: LoadedModel
) -> None:
    tensors = in_layout(loaded.model, layout)
    if buffers:  # as checkpoints of old releases have them
        for layer in range(3):
            name = f"model.language_model.layers.{layer}.self_attn.rotary_emb.inv_freq"
            tensors[name_in(layout, name)] = torch.full((8,), torch.nan)
    write_weights(folder, tensors, shards)
    found = load(str(folder), CPU, torch.float32)
    assert torch.equal(logits(found.model, found.processor), logits(oracle_model(loaded), loaded.processor))
    spec = spec_of(str(folder))
    assert (spec.name, spec.parameters) == ("the-base", loaded.spec.parameters)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_embedded_model_in_shards_answers_as_plain_transformers(layout: str, tmp_path: Path) -> None:
    plain = Qwen2AudioForConditionalGeneration.from_pretrained(EMBEDDED_MODEL, dtype=torch.float32).eval()
    for file in EMBEDDED_MODEL.iterdir():
        if file.name != WEIGHTS:
            shutil.copy(file, tmp_path)
    write_weights(tmp_path, {name: one.half() for name, one in in_layout(plain, layout).items()}, CUT)
    found = load(str(tmp_path), CPU, torch.float32)
    assert torch.equal(logits(found.model, found.processor), logits(plain, found.processor))
    for file in tmp_path.glob("*.safetensors"):  # 40 MB
        file.unlink()


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("served", [torch.float32, torch.bfloat16, torch.float16])
def test_any_dtype_is_read_into_any(kind: torch.dtype, served: torch.dtype, folder: Path, loaded: LoadedModel) -> None:
    write_weights(folder, {name: one.to(kind) for name, one in in_layout(loaded.model, "hub").items()})
    found = load(str(folder), CPU, served).model.state_dict()
    for path, one in loaded.model.state_dict().items():
        assert torch.equal(found[path], one.to(kind).to(served))


def test_a_head_that_equals_the_embedding_may_be_called_tied(folder: Path, loaded: LoadedModel) -> None:
    tensors = in_layout(loaded.model, "hub")
    tensors["language_model.lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"].clone()
    write_weights(folder, tensors)
    edit_json(folder / "config.json", lambda config: config.update(tie_word_embeddings=True))
    found = load(str(folder), CPU, torch.float32).model
    assert torch.equal(found.lm_head.weight, tensors["language_model.model.embed_tokens.weight"])


def test_a_configuration_without_a_word_on_tying_keeps_the_own_head(whole: Path, loaded: LoadedModel) -> None:
    """As the Hub's Qwen2-Audio-7B-Instruct has it; transformers 5.10.0 to 5.10.3 tied it."""

    def forget(config: dict[str, Any]) -> None:
        config.pop("tie_word_embeddings", None)
        config["text_config"].pop("tie_word_embeddings", None)

    edit_json(whole / "config.json", forget)
    assert torch.equal(load(str(whole), CPU, torch.float32).model.lm_head.weight, loaded.model.lm_head.weight)


def test_a_folder_as_the_hub_has_it_needs_no_template(whole: Path, loaded: LoadedModel) -> None:
    for name in ("chat_template.jinja", "processor_config.json"):
        (whole / name).unlink()
    found = load(str(whole), CPU, torch.float32)
    conversation = [{"role": "user", "content": [{"type": "audio", "audio_url": ""}, {"type": "text", "text": "?"}]}]
    said = [one.apply_chat_template(conversation, tokenize=False) for one in (found.processor, loaded.processor)]
    assert said[0] == said[1]


def test_a_cached_hub_model_is_found_without_the_network(
    sharded: Path, loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, commit = tmp_path / "cache", "a" * 40
    place = cache / "models--acme--hears"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    shutil.copytree(sharded, place / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = load("acme/hears", CPU, torch.float32)
    assert found.spec.name == found.model.name_or_path == "acme/hears"
    assert torch.equal(logits(found.model, found.processor), logits(oracle_model(loaded), loaded.processor))
    assert spec_of("acme/hears").fingerprint == found.spec.fingerprint
    (place / "snapshots" / commit / shard(1, CUT)).unlink()  # a download that was broken off
    with pytest.raises(ModelRejected, match=f"The model acme/hears could not be loaded: .*{shard(1, CUT)}"):
        load("acme/hears", CPU, torch.float32)
    with pytest.raises(ModelRejected, match="was not downloaded before"):
        spec_of("acme/deaf")


@pytest.mark.parametrize("source", ["/no/such/folder", "./none", "a b", "", "x" * 300])
def test_what_is_neither_folder_nor_hub_model(source: str) -> None:
    with pytest.raises(ModelRejected, match=r"no (such )?folder"):
        spec_of(source)


def test_a_head_that_was_tied_silently_is_found(whole: Path) -> None:
    found, stored = load(str(whole), CPU, torch.float32).model, open_checkpoint(str(whole)).tensors
    check_weights(found, stored)
    found.lm_head.weight = found.model.language_model.embed_tokens.weight
    with pytest.raises(ModelRejected, match=r"language_model\.lm_head\.weight in model\.safetensors is not what"):
        check_weights(found, stored)


def test_a_parameter_that_was_never_read_is_found(whole: Path) -> None:
    stored = dict(open_checkpoint(str(whole)).tensors)
    for change in ("random", "meta", "unknown"):
        found = load(str(whole), CPU, torch.float32).model
        norm = found.model.language_model.norm
        if change == "random":
            norm.weight[-1] += 1
        elif change == "meta":
            norm.to("meta")
        else:
            norm.extra = torch.nn.Parameter(torch.zeros(3))
        with pytest.raises(ModelRejected, match=r"language_model\.(model\.)?norm"):
            check_weights(found, stored)


def test_what_transformers_reports_is_refused() -> None:
    check_loading({"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []})
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        with pytest.raises(ModelRejected, match=r"lm_head\.weight"):
            check_loading({kind: {"lm_head.weight"}})
