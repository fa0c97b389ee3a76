"""Parameters that each method trains and stores at full size, counted on the meta device: no weights, no network.

Beside every count stands the figure of the document that Overtone grew from, and why the two differ.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.errors import BadRequest
from app.models.config import on_meta, read_config
from app.models.family import family_of
from app.models.layout import part_of
from app.models.loading import describe
from app.models.weights.random_weights import config_of, released, size_of
from training.options import TrainOptions

BYTES = {"float32": 4, "bfloat16": 2}
# Figures of the document for the 7B model, and why ours differ
DOCUMENT = {
    "lora": (
        "4.19 M (0.0499 %), 21 MB on disk",
        "the count is the same; 21 MB are 5.51 M float32 numbers: bare q_proj and v_proj hit the audio tower as well",
    ),
    "lora with tower": ("audio tower 638.28 M", "636.97 M and the 1.31 M of LoRA that slipped into it"),
    "projector": (
        "5.25 M (0.0625 %), 31 GB on disk",
        "the count is the same; it saved all parameters in float32 (31 GiB), here the trained ones are saved",
    ),
    "head": ("no figures", "ten labels, linear; grows with the labels"),
}


@dataclass(frozen=True)
class Count:
    """One method: ``parts`` maps each part of the model to its parameters, trained ones among them."""

    method: str
    total: int
    trainable: int
    trainable_by_part: Mapping[str, int]

    @property
    def share(self) -> float:
        return self.trainable / self.total

    def bytes(self, dtype: str) -> int:
        """On disk, as Overtone stores it: what was trained and nothing else."""
        return self.trainable * BYTES[dtype]


@dataclass(frozen=True)
class Dimensions:
    """``parts``: parameters of the base model by part."""

    model: str
    parts: Mapping[str, int]
    counts: list[Count]


def dimensions(model: str, labels: int = 10) -> Dimensions:
    """Count a local folder's or the shipped full size's parameters. Raises BadRequest for other names."""
    base = _on_meta(model)
    parts: dict[str, int] = {}
    for path, parameter in base.named_parameters():
        parts[part_of(path)] = parts.get(part_of(path), 0) + parameter.numel()
    counts = [
        _adapted("lora", model, {}),
        _adapted("lora with tower", model, {"include_audio_tower": True}),
        _adapted("projector", model, {"method": "projector"}),
    ]
    width = describe(base, model, model).tower_width
    head = (2 * width + 1) * labels
    counts.append(Count("head", sum(parts.values()) + head, head, {"head": head}))
    return Dimensions(model, parts, counts)


def _adapted(name: str, model: str, changes: dict[str, Any]) -> Count:
    """Through PEFT itself, as a run does it."""
    from peft import LoraConfig, get_peft_model

    options = TrainOptions.model_validate({"data": "-", "name": "count", **changes})
    base = _on_meta(model)
    total = sum(parameter.numel() for parameter in base.parameters())
    if options.method == "projector":
        trained = {path: p.numel() for path, p in base.named_parameters() if part_of(path) == "projector"}
    else:
        adapted = get_peft_model(base, LoraConfig(**options.lora(family_of(base.config).targets)))
        prefix = "base_model.model."
        trained = {path.removeprefix(prefix): p.numel() for path, p in adapted.named_parameters() if p.requires_grad}
        total += sum(trained.values())
    by_part: dict[str, int] = {}
    for path, count in trained.items():
        by_part[part_of(path)] = by_part.get(part_of(path), 0) + count
    return Count(name, total, sum(trained.values()), by_part)


def _on_meta(model: str) -> Any:
    if size := size_of(model):
        config = config_of(size)
    elif Path(model).is_dir():
        config = read_config(Path(model))
    else:
        known = ", ".join(released())
        raise BadRequest(f"The dimensions of {model!r} are not shipped; give a model's folder, or one of: {known}.")
    return on_meta(config).requires_grad_(False)


def write_dimensions(found: Dimensions, folder: Path) -> str:
    """`dimensions.md` and `.json` in ``folder``; the Markdown."""
    rows = [
        "| method | parameters | trained | share | float32 | bfloat16 | in the document | why they differ |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for count in found.counts:
        figure, why = DOCUMENT[count.method]
        sizes = [f"{count.bytes(dtype) / 1e6:,.1f} MB" for dtype in BYTES]
        rows.append(
            f"| {count.method} | {count.total / 1e9:.3f} B | {count.trainable:,} | {100 * count.share:.4f} % | "
            f"{' | '.join(sizes)} | {figure} | {why} |"
        )
    total = sum(found.parts.values())
    base = [f"| {part} | {number:,} | {100 * number / total:.2f} % |" for part, number in found.parts.items()]
    whole = [f"{total * size / 1e9:.1f} GB in {dtype}" for dtype, size in BYTES.items()]
    text = "\n".join(
        [
            f"# What the methods train: {found.model}",
            "",
            f"The base model has {total:,} parameters ({total / 1e9:.3f} B): {', '.join(whole)}.",
            "",
            "| part | parameters | share |",
            "| --- | ---: | ---: |",
            *base,
            "",
            *rows,
            "",
        ]
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dimensions.md").write_text(text, encoding="utf-8")
    counts = [{**asdict(one), "share": one.share, "bytes": {d: one.bytes(d) for d in BYTES}} for one in found.counts]
    document = {"model": found.model, "parts": dict(found.parts), "methods": counts}
    (folder / "dimensions.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return text
