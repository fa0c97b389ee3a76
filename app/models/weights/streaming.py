"""Weights onto a device tensor by tensor: at no moment more than the final size and one piece of a matrix."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from app.models.family import PACKED_PROJECTIONS, family_of
from app.models.weights.stored_matrix import StoredMatrix
from app.quantization.formats import Format, Layout, QuantizedMatrix, layout_of, quantize, step_rows
from app.quantization.linear import QuantizedLinear

Rows = Callable[[str, int, int], torch.Tensor]  # parameter path, first row, the one after the last -> those rows


def model_without_weights(config: Any) -> Any:
    """A model whose parameters are on the device `meta`, but whose buffers, which no file holds, are computed."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return family_of(config).model_class()(config)


def fill(
    model: Any,
    rows: Rows,
    device: torch.device,
    dtype: torch.dtype,
    formats: Mapping[str, Format],
    stored: Mapping[str, StoredMatrix] | None = None,
) -> None:
    """Give every parameter its numbers, on ``device``, and move the buffers there.

    ``formats``: linear layers to be quantised, by path; ``stored``: those that are quantised in the file, which stay so
    where they are in ``formats``, too. Everything else gets ``dtype``. Raises what ``rows`` raises.
    """
    stored = stored or {}
    reserved = _reserve(model, formats, stored, device)
    for path, module in list(model.named_modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            full = f"{path}.{name}"
            if name == "weight" and (path in formats or path in stored):
                continue
            setattr(module, name, _plain(full, parameter.shape, rows, device, dtype))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = buffer.to(device)
    for path in dict.fromkeys([*formats, *stored]):
        linear = model.get_submodule(path)
        assert isinstance(linear, nn.Linear)
        if path not in formats:
            plain = QuantizedLinear(stored[path].read(device), linear.bias, dtype).dequantized()
            model.set_submodule(path, plain)
            continue
        if path in stored:
            reserved[path].copy_(stored[path].read(device))
        else:
            _quantize(path, rows, device, reserved[path])
        model.set_submodule(path, QuantizedLinear(reserved[path], linear.bias, dtype))
    model.eval().requires_grad_(False)


def _plain(path: str, shape: torch.Size, rows: Rows, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    """A parameter in ``dtype``, read some rows at a time."""
    whole = torch.empty(shape, device=device, dtype=dtype)
    step = step_rows(max(1, shape[1:].numel()))
    for first in range(0, shape[0], step):
        last = min(first + step, shape[0])
        whole[first:last] = rows(path, first, last).to(device)
    return nn.Parameter(whole, requires_grad=False)


def _reserve(
    model: nn.Module, formats: Mapping[str, Format], stored: Mapping[str, StoredMatrix], device: torch.device
) -> dict[str, QuantizedMatrix]:
    """Memory of each matrix at rest, by path; projections that the engine packs lie one behind the other.

    It is taken before anything is read: later, parts of what was freed would be used, and PyTorch gives no block back
    to the device of which a part is in use (2 GB at 7B).
    """
    linears = {path: model.get_submodule(path) for path in formats}
    layouts = {
        path: stored[path].layout if path in stored else layout_of(kind, int(linears[path].in_features))  # type: ignore[arg-type]
        for path, kind in formats.items()
    }
    found: dict[str, QuantizedMatrix] = {}
    for group in _packed(layouts):
        outputs = [int(linears[path].out_features) for path in group]  # type: ignore[arg-type]
        whole, first = layouts[group[0]].empty(sum(outputs), device), 0
        for path, count in zip(group, outputs, strict=True):
            found[path] = whole.rows(slice(first, first + count))
            first += count
    return found


def _packed(layouts: Mapping[str, Layout]) -> list[list[str]]:
    """All paths, those together that the engine packs, where they have one layout."""
    groups: dict[tuple[str, str], list[str]] = {}
    for path in layouts:
        for group, names in PACKED_PROJECTIONS.items():
            for name in names:
                if path == name or path.endswith(f".{name}"):
                    groups.setdefault((path.removesuffix(name), group), []).append(path)
    found: list[list[str]] = []
    for (parent, group), paths in groups.items():
        together = [f"{parent}{name}" for name in PACKED_PROJECTIONS[group]]
        whole = set(together) == set(paths) and len({layouts[path] for path in paths}) == 1
        found += [together] if whole else [[path] for path in paths]
    known = {path for paths in found for path in paths}
    return found + [[path] for path in layouts if path not in known]


def _quantize(path: str, rows: Rows, device: torch.device, target: QuantizedMatrix) -> None:
    """Write a matrix of the file or of random numbers into ``target``, some outputs at a time."""
    outputs, step = len(target.data), step_rows(target.inputs)
    for first in range(0, outputs, step):
        part = slice(first, min(first + step, outputs))
        target.rows(part).copy_(quantize(rows(f"{path}.weight", part.start, part.stop).to(device), target.kind))
