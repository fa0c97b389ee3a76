"""A linear layer whose weights lie in memory in a quantised format, for serving and for training."""

import importlib.util
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from app.quantization.formats import Format, QuantizedMatrix, quantize, step_rows


class QuantizedLinear(nn.Linear):
    """Computes x · Wᵀ + bias with W dequantised for the product, forward and backward; W itself takes no gradient.

    ``dtype``: of `weight`, and of the model around it. Code that knows `nn.Linear`, PEFT's included, may read `weight`,
    which is dequantised anew each time. Nothing can be written to it.
    """

    def __init__(self, matrix: QuantizedMatrix, bias: nn.Parameter | None, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.kind: Format = matrix.kind
        self.in_features, self.out_features = matrix.inputs, len(matrix.data)
        self.dtype = dtype
        self.data = _frozen(matrix.data)
        self.scale = _frozen(matrix.scale)
        self.zero_point = None if matrix.zero_point is None else _frozen(matrix.zero_point)
        self.bias = bias  # type: ignore[assignment]  # as nn.Linear's own

    @classmethod
    def of(cls, linear: nn.Linear, kind: Format) -> "QuantizedLinear":
        """A layer with the quantised weights of another, some outputs at a time."""
        step = step_rows(linear.in_features)
        parts = [quantize(linear.weight[first : first + step], kind) for first in range(0, linear.out_features, step)]
        return cls(joined(parts), linear.bias, linear.weight.dtype)

    @property
    def matrix(self) -> QuantizedMatrix:
        """The weights at rest."""
        return QuantizedMatrix(self.kind, self.data, self.scale, self.zero_point)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The dequantised weights [outputs, inputs], a new tensor."""
        return self.dequantize(self.dtype)

    def dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights [outputs, inputs] in ``dtype``."""
        if self.data.is_cuda and _has_triton():
            from app.quantization.on_cuda import dequantize

            return dequantize(self.matrix, dtype)
        return self.matrix.dequantize(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        product: torch.Tensor = _Product.apply(x, bias, self)  # type: ignore[no-untyped-call]
        return product

    def dequantized(self) -> nn.Linear:
        """A plain layer with the same weights, for those who write to them; shares the bias."""
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        plain.weight = _frozen(self.weight)
        plain.bias = self.bias
        return plain.train(self.training)

    def zero_outputs(self, outputs: Any) -> None:
        """Make these outputs 0, whatever the input."""
        self.scale.data[outputs] = 0

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.kind}"


class _Product(torch.autograd.Function):
    """x · Wᵀ + bias, which keeps no dequantised W for the way back, but dequantises again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, layer: QuantizedLinear) -> torch.Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dequantize(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        (gradient,) = gradients
        to_x = gradient @ ctx.layer.dequantize(gradient.dtype) if ctx.needs_input_grad[0] else None
        to_bias = gradient.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return to_x, to_bias, None


def joined(parts: list[QuantizedMatrix]) -> QuantizedMatrix:
    """Matrices of one format and equal groups, one behind the other along the outputs."""
    zero_points = [part.zero_point for part in parts if part.zero_point is not None]
    zero_point = torch.cat(zero_points) if zero_points else None
    data, scale = torch.cat([part.data for part in parts]), torch.cat([part.scale for part in parts])
    return QuantizedMatrix(parts[0].kind, data, scale, zero_point)


def quantize_layers(model: nn.Module, formats: Mapping[str, Format]) -> None:
    """Replace linear layers of a model in memory, in place, one after the other. ``formats``: by module path."""
    for path, kind in formats.items():
        linear = model.get_submodule(path)
        assert isinstance(linear, nn.Linear)
        model.set_submodule(path, QuantizedLinear.of(linear, kind))


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _frozen(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
