"""Validation of an adapter against a base, from its files alone, and the way in which it is served."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from app.errors import BadRequest
from app.models import head
from app.models.layout import part_of
from app.models.loading import BaseSpec
from app.registry.adapter_files.classifier_check import check_head
from app.registry.adapter_files.condense import condensed
from app.registry.adapter_files.config import AdapterConfig, LoraConfig, as_list, read_config
from app.registry.adapter_files.keys import Name
from app.registry.adapter_files.missing_layers import missing_layers
from app.registry.adapter_files.plain_peft import plain_adapter, skeleton, unknown_fields, wrap
from app.registry.adapter_files.report import MAX_PROBLEMS, check_files, read_counted, some
from app.registry.adapter_files.report import Report as Report
from app.registry.adapter_files.resolve import Meaning, owner_of, resolve
from app.registry.adapter_files.scaling import scaled_problems
from app.registry.adapter_files.tuners import SERVED, refusal
from app.registry.adapter_files.unplaced_tensors import explain
from app.registry.adapter_files.weights import WEIGHTS

EMBEDDING = (".lora_embedding_A", ".lora_embedding_B")
PAIR = (".lora_A.weight", ".lora_B.weight")
# Numbers that say where a tuner's values go: they must lie within the layer
_BY_HAND = {"SHIRA", "ADALORA"}
_SHIRA, _TOPK, _TOKENS = ".shira_indices", "_topk_indices", ".trainable_tokens_delta"


def validate(folder: Path, spec: BaseSpec, *, max_rank: int) -> Report:
    """A report with all problems of an adapter; it is served only without any. Reads every tensor once."""
    report = Report()
    try:
        if (folder / head.CONFIG).is_file():
            check_head(folder, spec, report)
        else:
            _check_adapter(folder, spec, max_rank, report)
    except BadRequest as error:
        report.problems.append(str(error))
    if len(report.problems) > MAX_PROBLEMS:
        more = len(report.problems) - MAX_PROBLEMS
        report.problems[MAX_PROBLEMS:] = [f"and {more} problems more"]
    return report


def _check_adapter(folder: Path, spec: BaseSpec, max_rank: int, report: Report) -> None:
    config = read_config(folder)
    check_files(folder, WEIGHTS, spec, report)
    _check_config(config, spec, max_rank, report)
    if report.ok:
        _check_tensors(folder, config, spec, report)


def _check_config(config: AdapterConfig, spec: BaseSpec, max_rank: int, report: Report) -> None:
    if config.peft_type not in SERVED:
        report.problems.append(refusal(config.peft_type))
        return
    trained_over = config.base_model_name_or_path
    if trained_over and Path(trained_over).name != Path(spec.name).name:
        report.warnings.append(f"its configuration names the base {trained_over[:200]!r}, served here is {spec.name!r}")
    if unknown := unknown_fields(config):
        report.warnings.append(f"its configuration has {some(unknown)}, which PEFT 0.21 does not know: left aside")
    report.problems += config.unservable
    report.serving = "batched" if config.batched else "alone"
    report.rank, report.alpha = config.rank, config.alpha
    if report.rank > max(max_rank, config.tuner.usual):
        report.problems.append(f"its rank {report.rank} exceeds this server's {max_rank} (OVERTONE_MAX_RANK)")


def _check_tensors(folder: Path, config: AdapterConfig, spec: BaseSpec, report: Report) -> None:
    held = read_counted(folder / WEIGHTS, report)
    if not held:
        return
    owners = {*spec.linears, *(path.rpartition(".")[0] for path in spec.parameters)}
    meaning = resolve(config, held, owners)
    report.warnings += meaning.warnings
    tensors = {name.path: held[name.key] for name in meaning.names}
    _check_fit(tensors, meaning, owners, spec, report)
    if convolutions := [m for m in meaning.modules if len(spec.parameters.get(f"{m}.weight", ())) > 2]:
        report.problems.append(
            f"{some(convolutions)}: the audio tower does not run with PEFT's layers around its convolutions; "
            "train its linear layers"
        )
    modules = {owner for path in tensors if (owner := owner_of(path, owners))}
    report.parts = sorted({part_of(f"{module}.") for module in modules})
    report.targets = sorted({module.rpartition(".")[2] for module in modules})
    if report.ok and _changes_nothing(tensors):
        report.problems.append("it would change nothing: every lora_B is zero")
    if report.ok:
        _check_complete(meaning, tensors, spec, report)
    if report.ok:
        report.problems += scaled_problems(tensors, meaning, spec.dtype)
    if report.ok and report.serving == "alone":
        _check_plain(meaning, held, spec, report)


def _check_fit(
    tensors: Mapping[str, torch.Tensor], meaning: Meaning, owners: set[str], spec: BaseSpec, report: Report
) -> None:
    """Every tensor has a place in the base, with the right shape."""
    if _is_whole_model(tensors, meaning, spec):
        report.problems.append(
            f"{WEIGHTS} holds whole weights of a model ({some(sorted(tensors))}), not an adapter: a merged or fully "
            "trained model is served as a base of its own, by OVERTONE_MODEL"
        )
        return
    unplaced: list[Name] = []
    for name in meaning.names:
        path, tensor = name.path, tensors[name.path]
        owner = owner_of(path, owners)
        if path.endswith(PAIR) and isinstance(meaning.config, LoraConfig):
            if owner is None:
                unplaced.append(name)
            else:
                _check_pair(path, tensor, tensors, meaning, spec, report)
        elif path.endswith(EMBEDDING) and owner is not None:
            _check_embedding(path, tensor, meaning, spec, report)
        elif path in spec.parameters:
            _check_saved(name, tensor, meaning, spec, report)
        elif (owner is None and not _is_shared(name, meaning.config)) or report.serving == "batched":
            unplaced.append(name)
        elif not tensor.is_floating_point():
            _check_places(path, tensor, meaning.config, spec, report)
        elif path.endswith(_TOKENS):
            _check_tokens(path, tensor, meaning.config, spec, report)
    if unplaced:
        report.problems.append(explain(unplaced, spec, meaning.config.base_model_name_or_path))
    report.problems = condensed(report.problems, tensors)


def _check_pair(
    path: str,
    tensor: torch.Tensor,
    tensors: Mapping[str, torch.Tensor],
    meaning: Meaning,
    spec: BaseSpec,
    report: Report,
) -> None:
    module = path[: -len(".lora_A.weight")]
    side = path[-len("A.weight")]
    other = f"{module}.lora_{'B' if side == 'A' else 'A'}.weight"
    if other not in tensors:
        report.problems.append(f"{path} has no counterpart {other}")
    if module not in spec.linears:  # a convolution or an embedding, which plain PEFT serves
        report.serving = "alone"
        return
    out_features, in_features = spec.linears[module]
    rank = meaning.rank_of(module)
    wanted = (rank, in_features) if side == "A" else (out_features, rank)
    if tensor.numel() == 0:
        report.problems.append(
            f"{path} has no elements (shape {tuple(tensor.shape)}, {wanted} is needed): DeepSpeed ZeRO-3 or FSDP saved "
            "it without gathering; save it again with gathered parameters"
        )
    elif tuple(tensor.shape) != wanted:
        report.problems.append(f"{path} has shape {tuple(tensor.shape)}, this base and its rank need {wanted}")
    elif not tensor.is_floating_point():
        report.problems.append(f"{path} is {str(tensor.dtype).removeprefix('torch.')}, not floating point")


def _check_embedding(path: str, tensor: torch.Tensor, meaning: Meaning, spec: BaseSpec, report: Report) -> None:
    """LoRA on the token embedding, which PEFT alone serves."""
    report.serving = "alone"
    module = path.rpartition(".")[0]
    vocabulary, width = spec.parameters[f"{module}.weight"][:2]
    rank = meaning.rank_of(module) if isinstance(meaning.config, LoraConfig) else 0
    wanted = (rank, vocabulary) if path.endswith("A") else (width, rank)
    if tuple(tensor.shape) != wanted:
        report.problems.append(f"{path} has shape {tuple(tensor.shape)}, this base and its rank need {wanted}")


def _check_saved(name: Name, tensor: torch.Tensor, meaning: Meaning, spec: BaseSpec, report: Report) -> None:
    """Whole parameters are taken only where `modules_to_save` or a trained bias explains them.

    PEFT would write others over the base model's own weights.
    """
    path = name.path
    named = any(path.startswith(f"{module}.") for module in meaning.saved)
    bias = path.endswith(".bias") and (meaning.config.bias or "none") != "none"
    if not named and not bias:
        report.problems.append(f"{path} would overwrite a weight of the base; save with save_embedding_layers=False")
    elif tuple(tensor.shape) != spec.parameters[path]:
        report.problems.append(f"{path} has shape {tuple(tensor.shape)}, this base has {spec.parameters[path]}")
    elif not tensor.is_floating_point():
        report.problems.append(f"{path} is {str(tensor.dtype).removeprefix('torch.')}, not floating point")


def _check_places(path: str, tensor: torch.Tensor, config: AdapterConfig, spec: BaseSpec, report: Report) -> None:
    """Whole numbers are places within a layer; others would read or write beside it."""
    module = path.rpartition(".")[0]
    if path.endswith(_SHIRA) and module in spec.linears and tuple(tensor.shape[:1]) == (2,) and tensor.dim() == 2:
        limits = torch.tensor(spec.linears[module])[:, None]
    elif path.endswith(_TOPK):
        limits = torch.tensor(int(config.fields.get("num_vectors") or 256))
    else:
        report.problems.append(f"{path} is {str(tensor.dtype).removeprefix('torch.')}, not floating point")
        return
    if ((tensor < 0) | (tensor >= limits)).any():
        report.problems.append(f"{path} names places beyond its layer")


def _check_tokens(path: str, tensor: torch.Tensor, config: AdapterConfig, spec: BaseSpec, report: Report) -> None:
    """Trained rows of an embedding: as many as there are indices, within the vocabulary."""
    vocabulary = spec.parameters.get(f"{path.removesuffix(_TOKENS)}.weight", (0,))[0]
    named = config.trainable_token_indices or config.fields.get("token_indices")
    lists = list(named.values()) if isinstance(named, dict) else [named]
    for indices in lists:
        if not isinstance(indices, list) or not all(type(i) is int and 0 <= i < vocabulary for i in indices):
            report.problems.append(f"the tokens trained at {path} are no list of numbers below {vocabulary}")
            return
    if len(tensor) not in [len(indices or ()) for indices in lists]:
        report.problems.append(f"{path} has {len(tensor)} rows, its configuration names another number of tokens")


def _check_complete(meaning: Meaning, tensors: Mapping[str, torch.Tensor], spec: BaseSpec, report: Report) -> None:
    """Every module that the configuration names as trained has its tensors."""
    for module in meaning.saved:
        lacking = [path for path in spec.parameters if path.startswith(f"{module}.") and path not in tensors]
        if lacking:
            report.problems.append(f"{some(lacking)}: missing in {WEIGHTS}, although all of {module} was saved")
    for name in as_list(meaning.config.modules_to_save):
        if not any(written.endswith(name) for written in meaning.saved.values()):
            report.problems.append(f"modules_to_save names {name[:80]!r}, and {WEIGHTS} has nothing of it")
    if meaning.config.trainable_token_indices and not any(path.endswith(_TOKENS) for path in tensors):
        report.problems.append(f"trainable_token_indices names tokens, and {WEIGHTS} has nothing of them")
    norms = meaning.config.peft_type == "LN_TUNING"
    layers = sorted({path.rpartition(".")[0] for path in spec.parameters}) if norms else spec.linears
    if lacking := missing_layers(meaning, layers):
        report.warnings.append(
            f"target_modules names {len(lacking)} layers that {WEIGHTS} has no tensors for ({some(lacking)}): they "
            "stay as in the base; if they were trained, the file is incomplete"
        )


def _check_plain(meaning: Meaning, held: Mapping[str, torch.Tensor], spec: BaseSpec, report: Report) -> None:
    """PEFT takes all of it: tried on the base's modules without their weights."""
    if meaning.config.peft_type in _BY_HAND:
        report.problems += list(_misshapen(meaning, {name.path: held[name.key] for name in meaning.names}, spec))
        return
    try:
        wrap(skeleton(spec), plain_adapter(meaning, held), meta=True)
    except BadRequest as error:
        report.problems.append(str(error))


def _misshapen(meaning: Meaning, tensors: Mapping[str, torch.Tensor], spec: BaseSpec) -> Iterator[str]:
    """Problems of tuners that PEFT cannot try without weights, because it picks values while it loads them."""
    expected: set[str] = set()
    for path in meaning.modules:
        out_features, in_features = spec.linears.get(path, (0, 0))
        if meaning.config.peft_type == "SHIRA":
            count = tensors.get(f"{path}.shira_weight", torch.empty(0)).numel()
            wanted: dict[str, tuple[int, ...]] = {"shira_weight": (count,), "shira_indices": (2, count)}
        else:
            rank = len(tensors.get(f"{path}.lora_E", ()))
            wanted = {"lora_A": (rank, in_features), "lora_B": (out_features, rank), "lora_E": (rank, 1)}
        for name, shape in wanted.items():
            expected.add(f"{path}.{name}")
            if (tensor := tensors.get(f"{path}.{name}")) is None:
                yield f"{path}.{name} is missing"
            elif tuple(tensor.shape) != shape:
                yield f"{path}.{name} has shape {tuple(tensor.shape)}, this base and the others need {shape}"
    beside = [path for path in tensors if path not in expected and path not in spec.parameters]
    if beside:
        yield f"{some(beside)}: no tensors of {meaning.config.peft_type}"


def _is_whole_model(tensors: Mapping[str, torch.Tensor], meaning: Meaning, spec: BaseSpec) -> bool:
    return not meaning.modules and not meaning.saved and all(path in spec.parameters for path in tensors)


def _is_shared(name: Name, config: AdapterConfig) -> bool:
    """True for a tensor that a tuner keeps once for all layers."""
    return name.written in {f"base_model.{shared}" for shared in config.tuner.shared}


def _changes_nothing(tensors: Mapping[str, torch.Tensor]) -> bool:
    return all(path.endswith(".lora_A.weight") or not tensor.any() for path, tensor in tensors.items())
