"""Formats in which a matrix of the language model lies in memory.

``float8`` and ``int8`` take one byte per weight and have one scale per output. ``int4`` takes half a byte and has a
scale (float16) and a zero point per group of inputs. A weight is (number - zero point) · scale.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch

Format = Literal["float8", "int8", "int4"]
FORMATS: tuple[Format, ...] = get_args(Format)
GROUPS = (128, 64, 32, 16, 8)  # inputs of a group of int4: the first that divides their number
BLOCK = 128  # inputs whose int4 numbers lie together, where that divides their number
_FLOAT8_MOST = 448.0  # of e4m3
_SMALLEST = 1e-12  # scale of an output without weights …
_SMALLEST_HALF = 2.0**-24  # … and of a group


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix [outputs, inputs] at rest.

    ``data``: float8 as bits of e4m3, uint8 [outputs, inputs]; int8 [outputs, inputs]; int4 as int32 words of 8 numbers
    [outputs, inputs / 8] (`pack_int4`). ``scale`` [outputs, groups]; ``zero_point`` int8 [outputs, groups], or None.
    """

    kind: Format
    data: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None = None

    @property
    def inputs(self) -> int:
        return self.data.shape[1] * (8 if self.kind == "int4" else 1)

    def rows(self, part: slice) -> "QuantizedMatrix":
        """Some of the outputs; shares memory."""
        zero_point = None if self.zero_point is None else self.zero_point[part]
        return QuantizedMatrix(self.kind, self.data[part], self.scale[part], zero_point)

    def copy_(self, other: "QuantizedMatrix") -> None:
        """Take the numbers of a matrix of the same layout."""
        self.data.copy_(other.data)
        self.scale.copy_(other.scale)
        if self.zero_point is not None and other.zero_point is not None:
            self.zero_point.copy_(other.zero_point)

    def dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights [outputs, inputs], computed in the scale's dtype as other readers of the format do."""
        numbers = self._numbers()
        if self.scale.shape[1] == 1 and self.zero_point is None:
            return numbers.mul_(self.scale).to(dtype)
        grouped = numbers.view(*self.scale.shape, -1)
        if self.zero_point is not None:
            grouped -= self.zero_point[..., None].to(numbers.dtype)
        return grouped.mul_(self.scale[..., None]).view_as(numbers).to(dtype)

    def _numbers(self) -> torch.Tensor:
        """The numbers [outputs, inputs] as stored, in the scale's dtype, in memory of their own."""
        if self.kind == "float8":
            return self.data.view(torch.float8_e4m3fn).to(self.scale.dtype)
        return (self.data if self.kind == "int8" else unpack_int4(self.data)).to(self.scale.dtype)


@dataclass(frozen=True)
class Layout:
    """What a matrix at rest consists of, without its numbers. ``zero``: there are zero points."""

    kind: Format
    inputs: int
    groups: int
    scale: torch.dtype
    zero: bool

    def empty(self, outputs: int, device: torch.device) -> QuantizedMatrix:
        """A matrix [outputs, inputs] that nothing was written to."""
        width, number = self.inputs, {"float8": torch.uint8, "int8": torch.int8, "int4": torch.int32}[self.kind]
        data = torch.empty(outputs, width // 8 if self.kind == "int4" else width, device=device, dtype=number)
        scale = torch.empty(outputs, self.groups, device=device, dtype=self.scale)
        zero_point = torch.empty(outputs, self.groups, device=device, dtype=torch.int8) if self.zero else None
        return QuantizedMatrix(self.kind, data, scale, zero_point)


def layout_of(kind: Format, inputs: int) -> Layout:
    """The layout of what `quantize` returns."""
    if kind == "int4":
        return Layout(kind, inputs, inputs // group_size(inputs), torch.float16, zero=True)
    return Layout(kind, inputs, 1, torch.float32, zero=False)


def quantize(weight: torch.Tensor, kind: Format) -> QuantizedMatrix:
    """``weight`` [outputs, inputs] to the nearest numbers of a format. For int4, inputs are a multiple of 8."""
    wide = weight.float()
    if kind == "int4":
        return _quantize_int4(wide)
    most = _FLOAT8_MOST if kind == "float8" else 127.0
    scale = (wide.abs().amax(1, keepdim=True) / most).clamp_(min=_SMALLEST)
    numbers = wide / scale
    if kind == "float8":
        return QuantizedMatrix(kind, numbers.to(torch.float8_e4m3fn).view(torch.uint8), scale)
    return QuantizedMatrix(kind, numbers.round_().clamp_(-127, 127).to(torch.int8), scale)


def _quantize_int4(wide: torch.Tensor) -> QuantizedMatrix:
    """Each group's range, widened to hold 0, in 15 steps; the zero point is a whole number of them."""
    outputs, inputs = wide.shape
    grouped = wide.view(outputs, -1, group_size(inputs))
    low, high = grouped.amin(2).clamp_(max=0), grouped.amax(2).clamp_(min=0)
    halves = ((high - low) / 15).clamp_(min=_SMALLEST_HALF).to(torch.float16)
    scale = halves.float()
    zero_point = (-8 - low / scale).round_().clamp_(-8, 7)
    numbers = (grouped / scale[..., None]).round_().add_(zero_point[..., None]).clamp_(-8, 7)
    data = pack_int4(numbers.to(torch.int8).view(outputs, inputs))
    return QuantizedMatrix("int4", data, halves, zero_point.to(torch.int8))


def group_size(inputs: int) -> int:
    """Inputs per group of int4. Raises ValueError where they are no multiple of 8."""
    found = next((size for size in GROUPS if inputs % size == 0), None)
    if found is None:
        raise ValueError(f"int4 needs a multiple of 8 inputs, not {inputs}")
    return found


def pack_int4(numbers: torch.Tensor) -> torch.Tensor:
    """int8 [outputs, inputs] from -8 to 7 as int32 words [outputs, inputs / 8], each number plus 8 in four bits.

    A block of inputs is `BLOCK`, or 8. Bits 4·s to 4·s+3 of word t of a block with w words are its input s·w + t, so
    that a kernel which takes the same bits of consecutive words reads consecutive inputs.
    """
    outputs, inputs = numbers.shape
    words = block_words(inputs)
    blocks = (numbers.to(torch.int32) + 8).view(outputs, -1, 8, words)
    shifts = 4 * torch.arange(8, device=numbers.device, dtype=torch.int32)[:, None]
    return (blocks << shifts).sum(2, dtype=torch.int32).view(outputs, -1)


def unpack_int4(data: torch.Tensor) -> torch.Tensor:
    """The int8 numbers [outputs, inputs] of `pack_int4`."""
    outputs, count = data.shape
    words = block_words(8 * count)
    shifts = 4 * torch.arange(8, device=data.device, dtype=torch.int32)[:, None]
    blocks = (data.view(outputs, -1, 1, words) >> shifts) & 15
    return (blocks.view(outputs, -1) - 8).to(torch.int8)


def block_words(inputs: int) -> int:
    """Words of a block of int4 numbers."""
    return BLOCK // 8 if inputs % BLOCK == 0 else 1


def formats_of(paths: Iterable[str], weights: Format, head: str) -> Mapping[str, Format]:
    """The format of each linear layer. With int4 the output layer ``head`` takes int8, which costs 0.3 GB at 7B.

    Errors in its rows change the choice of a token at once; those of other layers pass through norms and sums.
    """
    return {path: "int8" if weights == "int4" and path == head else weights for path in paths}


def matrix_bytes(kind: Format, outputs: int, inputs: int) -> int:
    """Bytes of a matrix at rest, with scales and zero points."""
    if kind == "int4":
        return outputs * inputs // 2 + 3 * outputs * (inputs // group_size(inputs))
    return outputs * inputs + 4 * outputs


def step_rows(inputs: int) -> int:
    """Outputs that are quantised at a time: 2²⁴ weights, which take 64 MB in float32."""
    return max(1, (1 << 24) // inputs)


def plain_bytes(shape: Iterable[int], dtype: torch.dtype) -> int:
    """Bytes of a tensor that is not quantised."""
    return math.prod(shape) * dtype.itemsize
