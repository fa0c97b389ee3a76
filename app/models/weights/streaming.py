"""Weights onto a device tensor by tensor: at no moment more than the final size and one piece of a matrix."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from app.models.family import family_of
from app.models.weights.stored_matrix import StoredMatrix
from app.quantization.formats import Format, QuantizedMatrix, quantize, step_rows
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
        matrix = stored[path].read(device) if path in stored else _quantized(path, linear, rows, device, formats[path])
        layer = QuantizedLinear(matrix, linear.bias, dtype)
        model.set_submodule(path, layer if path in formats else layer.dequantized())
    model.eval().requires_grad_(False)


def _plain(path: str, shape: torch.Size, rows: Rows, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    """A parameter in ``dtype``, read some rows at a time."""
    whole = torch.empty(shape, device=device, dtype=dtype)
    step = step_rows(max(1, shape[1:].numel()))
    for first in range(0, shape[0], step):
        last = min(first + step, shape[0])
        whole[first:last] = rows(path, first, last).to(device)
    return nn.Parameter(whole, requires_grad=False)


def _quantized(path: str, linear: nn.Linear, rows: Rows, device: torch.device, kind: Format) -> QuantizedMatrix:
    """A matrix of the file or of random numbers, quantised some outputs at a time."""
    outputs, step = linear.out_features, step_rows(linear.in_features)
    whole: QuantizedMatrix | None = None
    for first in range(0, outputs, step):
        last = min(first + step, outputs)
        part = quantize(rows(f"{path}.weight", first, last).to(device), kind)
        if whole is None:
            whole = part if last == outputs else _empty(part, outputs)
        if whole is not part:
            _copy(part, whole.rows(slice(first, last)))
    assert whole is not None
    return whole


def _empty(part: QuantizedMatrix, outputs: int) -> QuantizedMatrix:
    """Room for a matrix of ``outputs`` like a part of it."""
    data, scale, zero_point = (
        None if one is None else one.new_empty(outputs, one.shape[1])
        for one in (part.data, part.scale, part.zero_point)
    )
    assert data is not None
    assert scale is not None
    return QuantizedMatrix(part.kind, data, scale, zero_point)


def _copy(part: QuantizedMatrix, target: QuantizedMatrix) -> None:
    target.data.copy_(part.data)
    target.scale.copy_(part.scale)
    if target.zero_point is not None and part.zero_point is not None:
        target.zero_point.copy_(part.zero_point)
