"""The comparison of the methods, made by running them: LoRA, projector and head on the same data and base."""

import json
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from app.errors import BadRequest, OvertoneError
from app.models.layout import PARTS
from app.models.loading import combine_checksums, weight_checksums
from app.settings import Settings
from training.events import Events, json_lines
from training.memory import peak_gb
from training.options import Method, Places, TrainOptions
from training.overwriting import check_unused
from training.reports.curves import draw_curves
from training.reports.metrics import METRICS
from training.reports.outcome import Trained
from training.run import Run
from training.sample_data import write
from training.workers import launched

METHODS: tuple[Method, ...] = ("lora", "projector", "head")
# The projector is compared on any data: its gate asks for 1,000 rows, and the comparison shows why
ALLOWED = {"projector": ("few_samples",)}


@dataclass(frozen=True)
class Compared:
    """One method's column. ``losses``: (epoch, training, held out)."""

    method: str
    total: int
    trainable: int
    trained_parts: list[str]
    checkpoint_bytes: int
    losses: list[tuple[int, float, float]]
    metrics: dict[str, Any]
    reversible: bool
    seconds: float
    peak_gb: float
    curves: tuple[list[Any], list[Any]] = field(repr=False, default=([], []))


def compare(
    data: str | None,
    out: Path,
    settings: Settings,
    epochs: float,
    max_new_tokens: int,
    console: Console,
    *,
    force: bool = False,
) -> list[Compared]:
    """Run all three; each starts from the same base model, and its answers have at most ``max_new_tokens``.

    Raises BadRequest where a launcher started several processes and when no method could be run, and Conflict where
    ``out`` has an earlier comparison, unless ``force``.
    """
    if launched()[1] > 1:
        raise BadRequest("The comparison takes one process: run it without accelerate launch.")
    check_unused(
        [*(out / f"comparison{ending}" for ending in (".md", ".json", ".png")), *(out / m for m in METHODS)], force
    )
    out.mkdir(parents=True, exist_ok=True)  # before anything is trained
    source = data or str(write(out / "telephone-tones", force=force))
    found = []
    for method in METHODS:
        console.print(f"[bold]{method}[/bold] …")
        try:
            found.append(_one(method, source, out, settings, {"max_new_tokens": max_new_tokens}, epochs))
        except OvertoneError as error:
            console.print(f"[red]{method} could not be run:[/red] {error}")
    if not found:
        raise BadRequest("None of the methods could be run; the reasons stand above.")
    return found


def _one(method: Method, source: str, out: Path, settings: Settings, shared: dict[str, Any], epochs: float) -> Compared:
    work = out / method
    shutil.rmtree(work, ignore_errors=True)
    asked = shared | {"data": source, "name": method, "method": method, "allow": ALLOWED.get(method, ())}
    # The bounds that would stop a projector are off: here its damage is to be seen
    asked |= {"epochs": epochs} if method != "head" else {}
    asked |= {"drift_bound": 1.0, "retention_bound": 1.0} if method == "projector" else {}
    options = TrainOptions.model_validate(asked)
    run = Run(options, Places(out / "registry", work), settings, Events([json_lines(work / "events.jsonl")]))
    before = combine_checksums(weight_checksums(run.loaded.model))
    began = time.monotonic()
    outcome = run.run()
    seconds = time.monotonic() - began
    assert outcome is not None  # one process
    trained, report = outcome.trained, outcome.adapter.report
    base = sum(parameter.numel() for parameter in run.loaded.model.parameters())
    return Compared(
        method=method,
        total=base + (report.parameters if method != "projector" else 0),
        trainable=report.parameters,
        trained_parts=["head"] if method == "head" else report.parts,
        checkpoint_bytes=report.bytes,
        losses=_by_epoch(trained, method),
        metrics=trained.metrics,
        reversible=combine_checksums(weight_checksums(run.loaded.model)) == before,
        seconds=round(seconds, 1),
        peak_gb=round(peak_gb(run.device), 2),
        curves=(list(trained.train), list(trained.held_out)),
    )


def _by_epoch(trained: Trained, method: Method) -> list[tuple[int, float, float]]:
    """Mean training loss and held-out loss of each epoch."""
    if method == "head":
        both = zip(trained.train, trained.held_out, strict=True)
        return [(int(epoch), round(loss, 4), round(held, 4)) for (epoch, loss), (_, held) in both]
    rows, start = [], 0.0
    for number, (end, held) in enumerate(trained.held_out, start=1):
        losses = [loss for step, loss in trained.train if start < step <= end]
        rows.append((number, round(sum(losses) / len(losses), 4), round(held, 4)))
        start = end
    return rows


def write_comparison(found: list[Compared], out: Path) -> str:
    """`comparison.md`, `.json` and a PNG of the curves in ``out``; the Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    curves = {one.method: one.curves for one in found if one.curves[0]}
    if curves:
        draw_curves(out / "comparison.png", curves)
    records = [{key: value for key, value in asdict(one).items() if key != "curves"} for one in found]
    (out / "comparison.json").write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    rows: list[tuple[str, list[str]]] = [
        ("all parameters", [f"{one.total:,}" for one in found]),
        ("trained", [f"{one.trainable:,} ({100 * one.trainable / one.total:.4f} %)" for one in found]),
        *((part.replace("_", " "), [_state(one, part) for one in found]) for part in PARTS),
        ("checkpoint", [f"{one.checkpoint_bytes:,} bytes" for one in found]),
        ("loss by epoch, training / held out", [_losses(one) for one in found]),
        ("projector's weights moved by (cosine)", [_drift(one) for one in found]),
        *_figures(found),
        ("answers that change in silence", [_share(one, "listening", "changed") for one in found]),
        ("general answers unchanged", [_retained(one) for one in found]),
        ("base bit-equal after unload", ["yes" if one.reversible else "NO" for one in found]),
        ("time, s", [f"{one.seconds:.0f}" for one in found]),
        ("peak memory of the process, GB", [f"{one.peak_gb:.2f}" for one in found]),
    ]
    header = ["| | " + " | ".join(one.method for one in found) + " |", "| --- " * (len(found) + 1) + "|"]
    text = "\n".join([*header, *(f"| {title} | {' | '.join(cells)} |" for title, cells in rows), ""])
    note = "\nThe projector was trained without its bounds and its minimum of rows, to show what it does.\n"
    (out / "comparison.md").write_text(f"# The methods compared\n\n{text}{note}", encoding="utf-8")
    return text + note


def _state(one: Compared, part: str) -> str:
    return "trained" if one.method == "projector" == part else "adapted" if part in one.trained_parts else "frozen"


def _losses(one: Compared) -> str:
    """The first epochs and the last."""
    shown = one.losses if len(one.losses) <= 5 else [*one.losses[:2], one.losses[-1]]
    return "<br>".join(f"{epoch}: {train:.3f} / {held:.3f}" for epoch, train, held in shown)


def _drift(one: Compared) -> str:
    drift = one.metrics.get("drift")
    return f"{drift['relative_change']:.4%} ({drift['cosine']:.6f})" if drift else "0 (1)"


def _figures(found: list[Compared]) -> list[tuple[str, list[str]]]:
    """Every metric that a method was judged by, base → trained."""
    names = list(dict.fromkeys(name for one in found for name in one.metrics["after"] if not name.endswith("_range")))
    return [
        (METRICS[name][2] if name in METRICS else name.replace("_", " "), [_change(one, name) for one in found])
        for name in names
    ]


def _change(one: Compared, name: str) -> str:
    before, after = one.metrics["before"], one.metrics["after"]
    return f"{100 * before[name]:.1f} → {100 * after[name]:.1f} %" if name in after else ""


def _share(one: Compared, group: str, name: str) -> str:
    return f"{100 * one.metrics[group][name]:.0f} %" if group in one.metrics else ""


def _retained(one: Compared) -> str:
    """While the method is in use; a head leaves the base's answers alone."""
    return "100 %" if one.method == "head" else _share(one, "retention", "same")
