"""Does an adapter fit this base, and how can it be served? Answered from its files, without a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError

from app.errors import BadRequest
from app.model import head
from app.model.base import BaseSpec, part_of
from app.model.tensors import read_tensors
from app.registry.config import FILE as CONFIG
from app.registry.config import AdapterConfig, read_config
from app.registry.manifest import damage, read_manifest
from app.registry.scaling import scaled_problems
from app.registry.weights import WEIGHTS, module_path

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
HEAD_FILES = (head.CONFIG, head.WEIGHTS)
MAX_HEAD_BYTES = 64 << 20  # ten times what thousands of labels take; heads wait in host memory
EMBEDDING = (".lora_embedding_A", ".lora_embedding_B")
# Tuners that PEFT injects into modules, so that a plain forward serves them
INJECTED = {"LORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "HRA", "FOURIERFT", "LN_TUNING"}


@dataclass
class Report:
    """What validation found. ``serving``: in batches, alone through plain PEFT, or as a classification head."""

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


def validate(folder: Path, spec: BaseSpec, *, max_rank: int) -> Report:
    """Read every tensor once and report all problems found; an adapter is served only without any."""
    report = Report()
    try:
        if (folder / head.CONFIG).is_file():
            _check_head(folder, spec, report)
        else:
            _check_adapter(folder, spec, max_rank, report)
    except BadRequest as error:
        report.problems.append(str(error))
    return report


def _check_adapter(folder: Path, spec: BaseSpec, max_rank: int, report: Report) -> None:
    config = read_config(folder)
    _check_files(folder, WEIGHTS, spec, report)
    _check_config(config, spec, max_rank, report)
    if report.ok:
        _check_tensors(folder, config, spec, report)
    if report.serving == "alone":
        report.problems += config.costly_patterns


def _check_files(folder: Path, weights: str, spec: BaseSpec, report: Report) -> None:
    manifest = read_manifest(folder)
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        report.problems.append(f"{', '.join(pickles)}: pickle files can run code and are refused; save as safetensors")
    if not (folder / weights).is_file():
        report.problems.append(f"{weights} is missing")
    if manifest is None:
        return
    known = manifest.base.fingerprint
    if known and known != spec.fingerprint:
        report.problems.append(
            f"it was trained over {manifest.base.name!r} with other weights than the {spec.name!r} served here"
        )
    report.problems += damage(folder, manifest)


def _check_config(config: AdapterConfig, spec: BaseSpec, max_rank: int, report: Report) -> None:
    if config.peft_type not in INJECTED:
        report.problems.append(f"peft_type {config.peft_type[:40]} cannot be served here; LoRA and its relatives can")
        return
    trained_over = config.base_model_name_or_path
    if trained_over and Path(trained_over).name != Path(spec.name).name:
        report.warnings.append(f"its configuration names the base {trained_over!r}, served here is {spec.name!r}")
    report.problems += config.unservable
    report.serving = "batched" if config.batched else "alone"
    if config.peft_type == "LORA":
        report.rank, report.alpha = config.max_rank, config.lora_alpha
        if report.rank > max_rank:
            report.problems.append(f"its rank {report.rank} exceeds this server's {max_rank} (OVERTONE_MAX_RANK)")


def _read(file: Path, report: Report) -> dict[str, torch.Tensor]:
    """All tensors of a weight file, counted; none, and a problem, when it holds none that can be read."""
    try:
        tensors = read_tensors(file)
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
        report.problems.append(f"{_some(broken)}: NaN or infinite values")
    return tensors


def _check_tensors(folder: Path, config: AdapterConfig, spec: BaseSpec, report: Report) -> None:
    tensors = {module_path(key): tensor for key, tensor in _read(folder / WEIGHTS, report).items()}
    if not tensors:
        return
    _check_fit(tensors, config, spec, report)
    modules = {owner for path in tensors if (owner := _owner(path, spec))}
    report.parts = sorted({part_of(f"{module}.") for module in modules})
    report.targets = sorted({module.rpartition(".")[2] for module in modules})
    if report.ok and _changes_nothing(tensors):
        report.problems.append("it would change nothing: every lora_B is zero")
    if report.ok:
        report.problems += scaled_problems(tensors, config, spec.dtype)


def _check_fit(tensors: Mapping[str, torch.Tensor], config: AdapterConfig, spec: BaseSpec, report: Report) -> None:
    """Every tensor has a place in the base, with the right shape."""
    unplaced = []
    for path, tensor in tensors.items():
        if path.endswith((".lora_A.weight", ".lora_B.weight")):
            _check_pair(path, tensor, tensors, config, spec, report)
        elif path.endswith(EMBEDDING) and f"{path.rpartition('.')[0]}.weight" in spec.parameters:
            _check_embedding(path, tensor, config, spec, report)
        elif path in spec.parameters:
            _check_saved(path, tensor, config, spec, report)
        elif report.serving == "batched" or _owner(path, spec) is None:
            unplaced.append(path)
    if unplaced:
        near = get_close_matches(unplaced[0].rpartition(".lora")[0], spec.linears, n=1, cutoff=0.3)
        hint = f"; the nearest layer here is {near[0]}" if near else ""
        report.problems.append(f"{len(unplaced)} tensors fit no layer of this base: {_some(unplaced)}{hint}")


def _check_pair(
    path: str,
    tensor: torch.Tensor,
    tensors: Mapping[str, torch.Tensor],
    config: AdapterConfig,
    spec: BaseSpec,
    report: Report,
) -> None:
    module = path[: -len(".lora_A.weight")]
    side = path[-len("A.weight")]
    if module not in spec.linears:
        if f"{module}.weight" in spec.parameters:  # a convolution or an embedding: PEFT's own business
            report.serving = "alone"
        else:
            near = get_close_matches(module, spec.linears, n=1, cutoff=0.3)
            report.problems.append(f"{module} is no layer of this base" + (f"; nearest: {near[0]}" if near else ""))
        return
    other = f"{module}.lora_{'B' if side == 'A' else 'A'}.weight"
    if other not in tensors:
        report.problems.append(f"{path} has no counterpart {other}")
    out_features, in_features = spec.linears[module]
    rank = config.rank_of(module)
    wanted = (rank, in_features) if side == "A" else (out_features, rank)
    if tuple(tensor.shape) != wanted:
        report.problems.append(f"{path} has shape {tuple(tensor.shape)}, this base and its rank need {wanted}")


def _check_embedding(path: str, tensor: torch.Tensor, config: AdapterConfig, spec: BaseSpec, report: Report) -> None:
    """LoRA on the token embedding, which PEFT alone serves."""
    report.serving = "alone"
    module = path.rpartition(".")[0]
    vocabulary, width = spec.parameters[f"{module}.weight"]
    rank = config.rank_of(module)
    wanted = (rank, vocabulary) if path.endswith("A") else (width, rank)
    if tuple(tensor.shape) != wanted:
        report.problems.append(f"{path} has shape {tuple(tensor.shape)}, this base and its rank need {wanted}")


def _check_saved(path: str, tensor: torch.Tensor, config: AdapterConfig, spec: BaseSpec, report: Report) -> None:
    """Whole parameters are taken only where `modules_to_save` or a trained bias explains them.

    PEFT would write others over the base model's own weights.
    """
    named = any(f".{name}." in f".{path}" for name in config.modules_to_save or [])
    bias = path.endswith(".bias") and (config.bias or "none") != "none"
    if not named and not bias:
        report.problems.append(f"{path} would overwrite a weight of the base; save with save_embedding_layers=False")
    elif tuple(tensor.shape) != spec.parameters[path]:
        report.problems.append(f"{path} has shape {tuple(tensor.shape)}, this base has {spec.parameters[path]}")


def _check_head(folder: Path, spec: BaseSpec, report: Report) -> None:
    report.serving = "classify"
    if (folder / CONFIG).is_file():
        report.problems.append(f"it holds {CONFIG} and {head.CONFIG}; an adapter has one or the other")
    sizes = {name: (folder / name).stat().st_size for name in HEAD_FILES if (folder / name).is_file()}
    if large := [name for name, size in sizes.items() if size > MAX_HEAD_BYTES]:
        report.problems.append(f"{', '.join(large)}: beyond {MAX_HEAD_BYTES >> 20} MB, which no head needs")
        return
    config = head.read_config(folder)
    report.labels = list(config.labels)
    _check_files(folder, head.WEIGHTS, spec, report)
    if config.width != spec.tower_width:
        report.problems.append(f"it is for a tower of width {config.width}, this base's has {spec.tower_width}")
    if report.ok:
        _check_head_tensors(_read(folder / head.WEIGHTS, report), config, report)


def _check_head_tensors(tensors: Mapping[str, torch.Tensor], config: head.HeadConfig, report: Report) -> None:
    if not tensors:
        return
    unknown = sorted(tensors.keys() - config.shapes.keys())
    if unknown:
        report.problems.append(f"{_some(unknown)}: no tensors of a head with hidden = {config.hidden}")
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
    if report.ok and _hears_nothing(tensors):
        report.problems.append("it would answer the same to every recording")


def _hears_nothing(tensors: Mapping[str, torch.Tensor]) -> bool:
    """No layer's output depends on the audio in what the labels differ by."""
    last = tensors["weight"]
    return bool((last == last[:1]).all()) or not tensors.get("hidden.weight", last).any()


def _owner(path: str, spec: BaseSpec) -> str | None:
    """The module of the base that a tensor belongs to."""
    module = path
    while "." in module:
        module = module.rpartition(".")[0]
        if module in spec.linears or f"{module}.weight" in spec.parameters:
            return module
    return None


def _changes_nothing(tensors: Mapping[str, torch.Tensor]) -> bool:
    return all(path.endswith(".lora_A.weight") or not tensor.any() for path, tensor in tensors.items())


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _words(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
