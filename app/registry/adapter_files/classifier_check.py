"""Validation of a classification head against a base, from its files alone."""

from collections.abc import Mapping
from pathlib import Path

import torch

from app.models import head
from app.models.loading import BaseSpec
from app.registry.adapter_files.config import FILE as CONFIG
from app.registry.adapter_files.report import Report, check_files, read_counted, some

FILES = (head.CONFIG, head.WEIGHTS)
MAX_CONFIG_BYTES = 1 << 20
MAX_BYTES = 64 << 20  # ten times what thousands of labels take; heads wait in host memory


def check_head(folder: Path, spec: BaseSpec, report: Report) -> None:
    """Add problems to ``report``. Raises BadRequest where its configuration cannot be read."""
    report.serving = "classify"
    if (folder / CONFIG).is_file():
        report.problems.append(f"it holds {CONFIG} and {head.CONFIG}; an adapter has one or the other")
    sizes = {name: (folder / name).stat().st_size for name in FILES if (folder / name).is_file()}
    if sizes.get(head.CONFIG, 0) > MAX_CONFIG_BYTES:
        report.problems.append(f"{head.CONFIG}: beyond {MAX_CONFIG_BYTES >> 20} MB, which no head needs")
        return
    if large := [name for name, size in sizes.items() if size > MAX_BYTES]:
        report.problems.append(f"{', '.join(large)}: beyond {MAX_BYTES >> 20} MB, which no head needs")
        return
    config = head.read_config(folder)
    report.labels = list(config.labels)
    check_files(folder, head.WEIGHTS, spec, report)
    if config.width != spec.tower_width:
        report.problems.append(f"it is for a tower of width {config.width}, this base's has {spec.tower_width}")
    if report.ok:
        _check_tensors(read_counted(folder / head.WEIGHTS, report), config, report)


def _check_tensors(tensors: Mapping[str, torch.Tensor], config: head.HeadConfig, report: Report) -> None:
    if not tensors:
        return
    unknown = sorted(tensors.keys() - config.shapes.keys())
    if unknown:
        report.problems.append(f"{some(unknown)}: no tensors of a head with hidden = {config.hidden}")
    for name, wanted in config.shapes.items():
        if name not in tensors:
            report.problems.append(f"{name} is missing")
        elif tuple(tensors[name].shape) != wanted:
            shape = tuple(tensors[name].shape)
            report.problems.append(f"{name} has shape {shape}, its labels and this base need {wanted}")
        elif not tensors[name].is_floating_point():
            report.problems.append(f"{name} is {tensors[name].dtype}, not floating point")
    if report.ok and not (tensors["scale"] > 0).all():
        report.problems.append("scale must be above 0 everywhere")
    if report.ok and _ignores_audio(tensors):
        report.problems.append("it would answer the same to every recording")


def _ignores_audio(tensors: Mapping[str, torch.Tensor]) -> bool:
    """No layer's output depends on the audio in what the labels differ by."""
    last = tensors["weight"]
    return bool((last == last[:1]).all()) or not tensors.get("hidden.weight", last).any()
