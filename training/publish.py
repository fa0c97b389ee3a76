"""From a trained adapter to a version in the registry, with a card that describes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.errors import OvertoneError
from app.models.loading import BaseSpec
from app.registry.adapter import Adapter
from app.registry.base import Registry
from app.registry.replicated import open_registry as registry_in
from app.settings import Settings
from training.evaluation import verdict
from training.options import TrainOptions, Weights
from training.prepare import Data
from training.reports.metrics import METRICS


class NotUploaded(OvertoneError):
    """The adapter is published, but the Hub did not take its copy."""


def open_registry(root: Path, spec: BaseSpec, settings: Settings) -> Registry:
    """The registry as a second process may use it: a running service tidies up, not the trainer."""
    registry = registry_in(
        root,
        spec,
        max_rank=settings.max_rank,
        keep_versions=settings.keep_versions,
        shared=settings.shared_adapters,
    )
    root.mkdir(parents=True, exist_ok=True)
    registry.refresh()
    return registry


def publish(
    registry: Registry,
    folder: Path,
    options: TrainOptions,
    data: Data,
    metrics: Mapping[str, Any],
    weights: Weights,
    *,
    hold: bool,
) -> Adapter:
    """Make the adapter in ``folder`` the next version of its name; ``hold``: without making it the current one.

    ``weights``: format of the base it was trained over.

    Raises AdapterRejected, StorageError, Conflict.
    """
    prompts = [row.prompt for row in data.train]
    return registry.publish(
        folder,
        options.name,
        replace=True,
        owner=options.owner,
        hold=hold,
        method=options.method,
        metrics=dict(metrics),
        dataset_fingerprint=data.fingerprint,
        prompt=max(set(prompts), key=prompts.count) if any(prompts) else None,
        task=options.task,
        weights=weights,
    )


def write_card(
    folder: Path,
    options: TrainOptions,
    data: Data,
    spec: BaseSpec,
    metrics: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """README.md: what it is for, how it was made, and what was measured."""
    prompts = [row.prompt for row in data.train]
    commonest = max(set(prompts), key=prompts.count)
    made = {
        "method": options.method,
        "base": f"{spec.name} (`{spec.fingerprint[:16]}`)",
        "data": f"{len(data.train)} rows to train on, {len(data.validation)} held out (`{data.fingerprint[:23]}`)",
        **facts,
    }
    sections = [
        f"# {options.name}",
        options.task or f"An adapter for {spec.family.title}, trained with Overtone.",
        f"Ask it with the prompt it was trained on: `{commonest}`",
        *(f"> {line}" for line in verdict(dict(metrics))),
        "## Figures",
        f"Base model and adapter on the same {metrics['rows']} held-out rows, which no step was trained on;\n"
        "in brackets the 95 % interval (bootstrap over rows; Wilson's where all rows are alike).",
        figures_table(metrics),
        *_checks(metrics),
        "## How it was made",
        "\n".join(f"- {key}: {value}" for key, value in made.items()),
    ]
    (folder / "README.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def figures_table(metrics: Mapping[str, Any]) -> str:
    """Markdown: one line a metric, base beside adapter."""
    lines = ["| | base | adapter |", "| --- | --- | --- |"]
    for name in (name for name in metrics["after"] if name in METRICS):
        cells = [_cell(metrics[side], name) for side in ("before", "after")]
        lines.append(f"| {METRICS[name][2]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(side: Mapping[str, Any], name: str) -> str:
    low, high = side[f"{name}_range"]
    return f"{100 * side[name]:.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def _checks(metrics: Mapping[str, Any]) -> list[str]:
    lines = []
    if listening := metrics.get("listening"):
        lines.append(
            "Does it listen? With silence in place of the audio "
            f"{100 * listening['changed']:.0f} % of the answers change."
        )
    if retention := metrics.get("retention"):
        lines.append(
            f"What is left of the base: {100 * retention['same']:.0f} % of its answers to {retention['rows']} general "
            f"questions are the same with the adapter on, {100 * retention['similar']:.0f} % of their characters. "
            "Without it they are all the same: the base's weights were not changed."
        )
    return lines


def push_to_hub(folder: Path, repository: str) -> str:
    """Upload a published version to the Hugging Face Hub; its address. Raises NotUploaded when that fails."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = HfApi()
    try:
        hub.create_repo(repository, exist_ok=True)
        return str(hub.upload_folder(repo_id=repository, folder_path=str(folder)).commit_url)
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NotUploaded(
            f"The adapter is published here, but was not uploaded to {repository!r}: {reason} "
            f"Log in with `hf auth login`, then `hf upload {repository} {folder}`."
        ) from None
