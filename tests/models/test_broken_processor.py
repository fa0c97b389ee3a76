"""A processor that is incomplete, damaged or another model's is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from app.errors import ModelRejected
from app.models.loading import LoadedModel, load, processor_of
from tests.models.broken import CPU, POINTER, Damage, config, edit_json, remove, write


def _template(text: str) -> Damage:
    return lambda folder, _: (folder / "chat_template.jinja").write_text(text)


def _forget_frame(folder: Path, _: LoadedModel) -> None:
    def of_tokenizer(content: dict[str, Any]) -> None:
        content["added_tokens"] = [one for one in content["added_tokens"] if one["content"] != "<|im_start|>"]

    def of_config(content: dict[str, Any]) -> None:
        for key in ("additional_special_tokens", "extra_special_tokens"):
            content.pop(key, None)

    edit_json(folder / "tokenizer.json", of_tokenizer)
    edit_json(folder / "tokenizer_config.json", of_config)


PROCESSORS: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "no tokenizer": (remove("tokenizer.json"), ("tokenizer.json",)),
    "no feature extractor": (
        remove("processor_config.json", "preprocessor_config.json"), ("preprocessor_config.json",),
    ),
    "no chat template": (remove("chat_template.jinja"), ("chat_template.jinja",)),
    "a cut tokenizer": (write("tokenizer.json", b'{"version": "1.0", "mod'), ("tokenizer.json", "JSON")),
    "a tokenizer of Git LFS": (write("tokenizer.json", POINTER), ("tokenizer.json", "Git LFS")),
    "no tokenizer's JSON": (write("tokenizer.json", b"{}"), ("tokenizer",)),
    "a broken template": (_template("{% for m in messages %}"), ("chat template",)),
    "a template without audio": (_template("{{ messages[0].role }}"), ("chat template", "<|AUDIO|>")),
    "another audio token": (
        config(lambda c: c.update(audio_token_index=7)), ("<|AUDIO|>", "audio_token_index 7", "config.json"),
    ),
    "a vocabulary beyond the model's": (
        lambda folder, _: edit_json(folder / "tokenizer.json", lambda t: t["model"]["vocab"].update(more=4000)),
        ("4000", "vocab_size"),
    ),
    "a tokenizer without the frame's tokens": (
        _forget_frame,
        ("tokenizer", "<|im_start|>"),
    ),
    "mel bands that disagree": (
        lambda folder, _: [
            edit_json(folder / "preprocessor_config.json", lambda e: e.update(feature_size=80)),
            edit_json(folder / "processor_config.json", lambda e: e["feature_extractor"].update(feature_size=80)),
        ],
        ("feature_size", "80", "128"),
    ),
    "a window that disagrees": (
        lambda folder, _: [
            edit_json(folder / "preprocessor_config.json", lambda e: e.update(chunk_length=30)),
            edit_json(folder / "processor_config.json", lambda e: e["feature_extractor"].update(chunk_length=30)),
        ],
        ("nb_max_frames", "3000", "200"),
    ),
    "generation settings that are no JSON": (write("generation_config.json", b"{,}"), ("generation_config.json",)),
}  # fmt: skip


@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_processor_that_does_not_fit_is_refused(kind: str, whole: Path, loaded: LoadedModel) -> None:
    damage, words = PROCESSORS[kind]
    damage(whole, loaded)
    for way in (lambda: load(str(whole), CPU, torch.float32), lambda: processor_of(str(whole))):
        with pytest.raises(ModelRejected) as caught:
            way()
        said = str(caught.value)
        assert "\n" not in said
        assert [word for word in words if word not in said] == [], said
