"""The report of a validation, and the checks that adapters and classification heads share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError

from app.errors import BadRequest
from app.models.loading import BaseSpec
from app.models.weights.tensors import read_tensors
from app.registry.adapter_files.header import read_header
from app.registry.adapter_files.manifest import damage, read_manifest

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
MAX_PROBLEMS = 20


@dataclass
class Report:
    """The result of a validation. ``serving``: in batches, alone through plain PEFT, or as a classification head."""

    serving: Literal["batched", "alone", "classify"] = "batched"
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    rank: int = 0
    alpha: float = 0
    tensors: int = 0
    parameters: int = 0
    bytes: int = 0
    dtype: str = ""
    labels: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


def check_files(folder: Path, weights: str, spec: BaseSpec, report: Report) -> None:
    """Add problems to ``report``: missing weights, and a manifest of another base or with other checksums.

    Other files of the folder, such as a trainer's state, are not read.
    """
    manifest = read_manifest(folder)
    if not (folder / weights).is_file():
        report.problems.append(missing_weights(weights, [file.name for file in folder.iterdir() if file.is_file()]))
    if manifest is None:
        return
    known = manifest.base.fingerprint
    if known and known != spec.fingerprint:
        report.problems.append(
            f"it was trained over {manifest.base.name[:80]!r} with other weights than the {spec.name!r} served here"
        )
    if manifest.weights and manifest.method != "head" and manifest.weights != spec.weights:
        report.warnings.append(
            f"it was trained over {_in_words(manifest.weights)} weights of its base and is served over "
            f"{_in_words(spec.weights)} ones: answers may differ a little from those measured in training"
        )
    report.problems += damage(folder, manifest)


def _in_words(weights: str) -> str:
    """A format of weights for people: `bfloat16` stands for all that are not quantised."""
    return "unquantised" if weights == "bfloat16" else weights[:40]


def missing_weights(weights: str, there: Sequence[str]) -> str:
    """The sentence for a folder without ``weights``, from the names of the files that it has."""
    stem = weights.partition(".")[0]
    if pickles := sorted(name for name in there if Path(name).suffix in PICKLES and name.startswith(stem)):
        return (
            f"{weights} is missing: {', '.join(pickles[:3])} is a pickle, which can run code and is not read; save it "
            "again with PEFT's save_pretrained(folder, safe_serialization=True)"
        )
    if parts := sorted(name for name in there if name.startswith(stem) and name.endswith(".safetensors")):
        return f"{weights} is missing; {some(parts)} may be parts of it: put them together into one file"
    if whole := sorted(name for name in there if name.startswith(("model", "pytorch_model"))):
        return f"{weights} is missing; {whole[0][:80]} is a whole model, which OVERTONE_MODEL serves"
    return f"{weights} is missing"


def read_counted(file: Path, report: Report) -> dict[str, torch.Tensor]:
    """All tensors of a weight file by key; none, and a problem, when it holds none that can be read."""
    try:
        read_header(file)
        tensors = read_tensors(file)
    except BadRequest as error:
        report.problems.append(str(error))
        return {}
    except (SafetensorError, OSError) as error:
        report.problems.append(f"{file.name} is no readable safetensors file: {_words(error)}")
        return {}
    if not tensors:
        report.problems.append(f"{file.name} holds no tensors")
    report.tensors = len(tensors)
    report.parameters = sum(tensor.numel() for tensor in tensors.values())
    report.bytes = file.stat().st_size
    report.dtype = ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()}))
    broken = [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        report.problems.append(f"{some(broken)}: NaN or infinite values")
    return tensors


def some(names: Sequence[str]) -> str:
    """The first few of many names."""
    listed = ", ".join(name[:200] for name in names[:3])
    return listed + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _words(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
