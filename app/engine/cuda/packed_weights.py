"""Weight matrices that read the same input, packed into one without holding them twice."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from app.engine.cuda.linear import SCRATCH, Matrix
from app.models.layout import language_model
from app.quantization.formats import QuantizedMatrix
from app.quantization.linear import QuantizedLinear, joined


def scratch_of(model: Any, like: torch.Tensor) -> torch.Tensor | None:
    """Scratch memory for `Matrix`, of ``like``'s device and dtype; None where no matrix of the model is at rest."""
    modules = [*language_model(model).modules(), model.lm_head]
    at_rest = any(isinstance(module, QuantizedLinear) for module in modules)
    return like.new_empty(SCRATCH) if at_rest else None


def pack_layers(parent: nn.Module, names: Sequence[str], scratch: torch.Tensor | None) -> Matrix:
    """One matrix of linear layers ``names`` of ``parent``, along the outputs; their weights become views of it.

    Layers at rest in several forms are replaced by plain layers first.
    """
    linears = [parent.get_submodule(name) for name in names]
    at_rest = [linear for linear in linears if isinstance(linear, QuantizedLinear)]
    if len(at_rest) == len(linears) and len({_form(linear) for linear in at_rest}) == 1:
        return Matrix(_pack_at_rest(at_rest).matrix, scratch)
    for name, linear in zip(names, linears, strict=True):
        if isinstance(linear, QuantizedLinear):
            parent.set_submodule(name, linear.dequantized())
    weights: list[Any] = [parent.get_submodule(name).weight for name in names]
    return Matrix(pack(weights) if len(weights) > 1 else weights[0])


def pack(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    """The parameters [outputs, inputs] stacked along the outputs; each becomes a view of its part."""
    whole = torch.cat([parameter.data for parameter in parameters])
    parts = torch.split(whole, [parameter.shape[0] for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data = part
    return whole


def _form(linear: QuantizedLinear) -> tuple[Any, ...]:
    """What matrices that are packed must have in common."""
    return linear.kind, linear.scale.shape[1], linear.scale.dtype, linear.zero_point is None


def _pack_at_rest(linears: list[QuantizedLinear]) -> QuantizedLinear:
    """A layer of the joined weights at rest, of which the layers get views."""
    if len(linears) == 1:
        return linears[0]
    matrices = [linear.matrix for linear in linears]
    if (adjacent := _adjacent(matrices)) is not None:
        return QuantizedLinear(adjacent, None, linears[0].dtype)
    whole = QuantizedLinear(joined(matrices), None, linears[0].dtype)
    first = 0
    for linear in linears:
        part = slice(first, first + linear.out_features)
        first = part.stop
        linear.data.data, linear.scale.data = whole.data.data[part], whole.scale.data[part]
        if linear.zero_point is not None and whole.zero_point is not None:
            linear.zero_point.data = whole.zero_point.data[part]
    return whole


def _adjacent(matrices: list[QuantizedMatrix]) -> QuantizedMatrix | None:
    """The matrix of which these are consecutive rows in memory; None where they lie elsewhere."""
    data = _adjacent_rows([matrix.data for matrix in matrices])
    scale = _adjacent_rows([matrix.scale for matrix in matrices])
    zero_points = [matrix.zero_point for matrix in matrices if matrix.zero_point is not None]
    zero_point = _adjacent_rows(zero_points) if zero_points else None
    if data is None or scale is None or (zero_points and zero_point is None):
        return None
    return QuantizedMatrix(matrices[0].kind, data, scale, zero_point)


def _adjacent_rows(parts: list[torch.Tensor]) -> torch.Tensor | None:
    first, end = parts[0], parts[0].storage_offset()
    for part in parts:
        same = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not (same and part.is_contiguous() and part.storage_offset() == end):
            return None
        end += part.numel()
    return first.as_strided((sum(map(len, parts)), first.shape[1]), first.stride(), first.storage_offset())
