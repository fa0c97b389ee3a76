"""An adapter that plain PEFT puts around a model, and the proof that all of it is there.

PEFT leaves out tensors whose names it does not know and keeps its own starting values where tensors are missing, with
a warning at most. Here both are refusals: what PEFT would save of the wrapped model must be the file, bit for bit.
"""

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from app.errors import BadRequest
from app.models.loading import BaseSpec
from app.models.weights.tensors import read_tensors
from app.registry.adapter_files.config import AdapterConfig, read_config
from app.registry.adapter_files.peft_config import explicit_config, peft_tensors
from app.registry.adapter_files.report import some
from app.registry.adapter_files.resolve import Meaning, resolve

NAME = "alone"  # of the adapter in PEFT's model
# Errors of PEFT and the libraries below it for an adapter that they cannot apply
_REFUSALS = (ValueError, LookupError, RuntimeError, TypeError, AttributeError, ArithmeticError, AssertionError)


@dataclass(frozen=True)
class PlainAdapter:
    """``config``: the fields of PEFT's configuration, each module by its path today; ``tensors`` by PEFT's keys."""

    peft_type: str
    config: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    paths: frozenset[str]


def read_plain(folder: Path, weights: str, owners: Collection[str]) -> PlainAdapter:
    """A validated adapter for plain PEFT. ``owners``: module paths of the base. Raises BadRequest."""
    tensors = read_tensors(folder / weights)
    return plain_adapter(resolve(read_config(folder), tensors, owners), tensors)


def plain_adapter(meaning: Meaning, tensors: Mapping[str, torch.Tensor]) -> PlainAdapter:
    """The same from what has been read. ``tensors`` by the file's keys."""
    by_path = {name.path: tensors[name.key] for name in meaning.names}
    config = explicit_config(meaning, by_path)
    return PlainAdapter(meaning.config.peft_type, config, peft_tensors(meaning, by_path), frozenset(by_path))


def wrap(model: nn.Module, adapter: PlainAdapter, *, name: str = NAME, onto: Any = None, meta: bool = False) -> Any:
    """A `PeftModel` around ``model``, which is changed in place; ``onto``: a PeftModel that takes it as one more.

    ``meta``: the model has no weights; the adapter's own are laid into it. Raises BadRequest for what PEFT refuses,
    for tensors that it leaves out, and for parts of the adapter that the file lacks.
    """
    import peft
    from peft import PeftModel

    made = peft.PEFT_TYPE_TO_CONFIG_MAPPING[adapter.peft_type]
    known = {field.name for field in fields(made)}
    chosen = {field: value for field, value in adapter.config.items() if field in known and field != "peft_type"}
    with _quiet():
        try:
            config = made(**chosen)
            if onto is None:
                onto = PeftModel(model, config, name, autocast_adapter_dtype=False, low_cpu_mem_usage=meta)
            else:
                onto.add_adapter(name, config)
            peft.set_peft_model_state_dict(onto, dict(adapter.tensors), name, low_cpu_mem_usage=meta)
            held = peft.get_peft_model_state_dict(onto, adapter_name=name, save_embedding_layers=False)
        except torch.OutOfMemoryError:
            raise
        except _REFUSALS as error:
            raise BadRequest(f"PEFT cannot apply it: {_words(error)}") from error
    _prove(held, adapter.tensors)
    return onto.eval()


def unknown_fields(config: AdapterConfig) -> list[str]:
    """Fields with a value that the installed PEFT does not know for this tuner."""
    import peft

    made = peft.PEFT_TYPE_TO_CONFIG_MAPPING.get(config.peft_type)
    known = {field.name for field in fields(made)} if made else set()
    return sorted(name for name, value in config.fields.items() if value and name not in known)


def skeleton(spec: BaseSpec) -> nn.Module:
    """Modules of a base without weights, made from its shapes: enough for PEFT to be put around."""
    root = nn.Module()
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for path, shape in spec.parameters.items():
        owner, _, name = path.rpartition(".")
        modules.setdefault(owner, {})[name] = shape
    for path, parameters in modules.items():
        parent = root
        *above, last = path.split(".")
        for part in above:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, _module(spec, path, parameters))
    return root.requires_grad_(False)


def _module(spec: BaseSpec, path: str, parameters: Mapping[str, tuple[int, ...]]) -> nn.Module:
    shape, bias = parameters.get("weight", ()), "bias" in parameters
    if path in spec.linears:
        out_features, in_features = spec.linears[path]
        return nn.Linear(in_features, out_features, bias=bias, device="meta")
    if len(shape) == 3:
        return nn.Conv1d(shape[1], shape[0], shape[2], bias=bias, device="meta")
    if len(shape) == 2:
        return nn.Embedding(shape[0], shape[1], device="meta")
    module = nn.Module()
    for name, size in parameters.items():
        module.register_parameter(name, nn.Parameter(torch.empty(size, device="meta")))
    return module


def _prove(held: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    """Every tensor of the file is in the model, and nothing of the adapter in the model is not from the file."""
    missing = sorted(held.keys() - tensors.keys())
    if missing:
        raise BadRequest(f"{some(missing)}: missing in the file, so PEFT would serve its own starting values there")
    lost = sorted(tensors.keys() - held.keys())
    if lost:
        raise BadRequest(f"{some(lost)}: PEFT finds no place for them, so they would not count")
    for key, tensor in tensors.items():
        found = held[key].detach()
        if found.shape != tensor.shape or not (found.is_meta or _same(key, found, tensor)):
            raise BadRequest(f"{key[:200]} did not reach the model as it stands in the file")
        if found.is_floating_point() and not found.is_meta and not torch.isfinite(found).all():
            raise BadRequest(f"{key[:200]} is too large for {str(found.dtype).removeprefix('torch.')}")


def _same(key: str, found: torch.Tensor, tensor: torch.Tensor) -> bool:
    wanted = tensor.to(device=found.device, dtype=found.dtype)
    if key.endswith("_topk_weights"):  # VB-LoRA keeps these as logits
        return torch.allclose(found.float(), wanted.float(), rtol=1e-2, atol=1e-3)
    return torch.equal(found, wanted)


@contextmanager
def _quiet() -> Iterator[None]:
    """PEFT warns of what is checked here anyway, and of choices that the file's author made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (" ".join(lines[:2]) or type(error).__name__)[:300]
