"""Matrices of a compressed-tensors checkpoint: which tensors belong to each, and how they are read.

https://github.com/vllm-project/compressed-tensors: `weight_packed` holds 4- or 8-bit numbers in int32 words, `weight`
int8 or float8 ones; `weight_scale` one per output, per group of inputs, or one for all; `weight_zero_point` as many.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from app.errors import ModelRejected
from app.models.layout import parameter_path
from app.models.weights.foreign_weights import WAY_OVER
from app.models.weights.safetensors_header import BYTES, StoredTensor
from app.models.weights.tensors import DTYPES, read_rows
from app.quantization.formats import Format, Layout, QuantizedMatrix, pack_int4, step_rows

_IGNORED = (
    "input_scale",
    "input_zero_point",
    "input_global_scale",
    "weight_shape",
)  # of activations; and what is known
_PARTS = ("weight_packed", "weight_scale", "weight_zero_point", *_IGNORED, "weight_g_idx", "weight_global_scale")


@dataclass(frozen=True)
class StoredMatrix:
    """One linear layer's weights in a file. ``kind`` and ``shape`` [outputs, inputs]: once they are known."""

    numbers: StoredTensor
    scale: StoredTensor
    zero_point: StoredTensor | None
    kind: Format
    shape: tuple[int, int]

    @property
    def packed(self) -> bool:
        return self.numbers.dtype == "I32"

    @property
    def layout(self) -> Layout:
        """The layout of what `read` returns."""
        groups = _groups(self.scale, self.shape[0])
        assert groups is not None
        return Layout(self.kind, self.shape[1], groups, DTYPES[self.scale.dtype], self.zero_point is not None)

    def read(self, device: torch.device) -> QuantizedMatrix:
        """The matrix on ``device``, read some outputs at a time. Raises ModelRejected for what is not finite."""
        outputs, inputs = self.shape
        step, parts = step_rows(inputs), []
        for first in range(0, outputs, step):
            stored = read_rows(self.numbers, first, min(first + step, outputs)).to(device)
            parts.append(self._data(stored))
        data = parts[0] if len(parts) == 1 else torch.cat(parts)
        scale = read_rows(self.scale, 0, self.scale.shape[0] if self.scale.shape else 1).to(device)
        scale = scale.reshape(-1, 1).expand(outputs, 1) if scale.numel() == 1 else scale.reshape(outputs, -1)
        if not torch.isfinite(scale).all():
            raise ModelRejected(f"NaN or infinity in {self.scale.name} in {self.scale.file.name}. Download it again.")
        return QuantizedMatrix(self.kind, data, scale.contiguous(), self._zero_points(device))

    def _data(self, stored: torch.Tensor) -> torch.Tensor:
        """Some outputs' numbers as `QuantizedMatrix` has them."""
        if self.kind == "float8":
            bits = stored.view(torch.uint8)
            if bool(((bits & 0x7F) == 0x7F).any()):
                raise ModelRejected(f"NaN in {self.numbers.name} in {self.numbers.file.name}. Download it again.")
            return bits
        if not self.packed:
            return stored
        numbers = _unpacked(stored, 4 if self.kind == "int4" else 8)[:, : self.shape[1]]
        return pack_int4(numbers) if self.kind == "int4" else numbers.contiguous()

    def _zero_points(self, device: torch.device) -> torch.Tensor | None:
        if self.zero_point is None:
            return None
        stored = read_rows(self.zero_point, 0, self.zero_point.shape[0]).to(device)
        if self.zero_point.dtype == "I32":  # packed along the outputs
            stored = _unpacked(stored.t().contiguous(), 4 if self.kind == "int4" else 8).t()[: self.shape[0]]
        return stored.reshape(self.shape[0], -1).contiguous()


def _unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """The int8 numbers [rows, words · 32 / bits] of int32 words: the first in the lowest bits, plus 2^(bits-1)."""
    shifts = torch.arange(0, 32, bits, device=words.device, dtype=torch.int32)
    numbers = ((words[..., None] >> shifts) & ((1 << bits) - 1)) - (1 << (bits - 1))
    return numbers.to(torch.int8).flatten(1)


def split(stored: Iterable[StoredTensor]) -> tuple[dict[str, dict[str, StoredTensor]], list[StoredTensor]]:
    """The parts of each quantised matrix, by module path and by part, and all other tensors."""
    matrices: dict[str, dict[str, StoredTensor]] = {}
    others = []
    for tensor in stored:
        owner, _, name = parameter_path(tensor.name).rpartition(".")
        if name in _PARTS or (name == "weight" and tensor.dtype not in BYTES):
            parts = matrices.setdefault(owner, {})
            if name in parts:
                raise ModelRejected(f"one tensor is stored twice: {parts[name].name} and {tensor.name}.")
            parts[name] = tensor
        else:
            others.append(tensor)
    return matrices, others


def matrix_of(parts: dict[str, StoredTensor], shape: Sequence[int]) -> StoredMatrix:
    """A matrix [outputs, inputs] of the model from its parts. Raises ModelRejected where they are none, or not read."""
    outputs, inputs = shape
    numbers, scale, zero_point = (
        parts.get("weight_packed") or parts.get("weight"), parts.get("weight_scale"), parts.get("weight_zero_point"),
    )  # fmt: skip
    named = next(iter(parts.values()))
    where = f"{named.name} in {named.file.name}"
    if "weight_g_idx" in parts:
        raise ModelRejected(
            f"{where}: inputs in the order of their activations (weight_g_idx) are not read. {WAY_OVER}."
        )
    if "weight_global_scale" in parts or numbers is None or scale is None:
        raise ModelRejected(f"{where}: numbers (weight or weight_packed) with one weight_scale are read. {WAY_OVER}.")
    kind, width = _kind(numbers, inputs), numbers.shape[-1]
    fits = kind is not None and len(numbers.shape) == 2 and numbers.shape[0] == outputs
    if not fits or (numbers.dtype != "I32" and width != inputs):
        raise ModelRejected(f"{where}: {numbers.dtype} {list(numbers.shape)} are no weights of {outputs} x {inputs}.")
    assert kind is not None
    groups = _groups(scale, outputs)
    if groups is None or inputs % groups or scale.dtype not in BYTES or scale.dtype == "F64":
        raise ModelRejected(
            f"{where}: its scale is {scale.dtype} {list(scale.shape)}; one per output, per group of inputs or for all "
            f"is read. {WAY_OVER}."
        )
    if zero_point is not None and (kind == "float8" or zero_point.dtype not in ("I8", "I32")):
        raise ModelRejected(f"{where}: zero points of {zero_point.dtype} with {kind} are not read. {WAY_OVER}.")
    return StoredMatrix(numbers, scale, zero_point, kind, (outputs, inputs))


def _kind(numbers: StoredTensor, inputs: int) -> Format | None:
    """The format of stored numbers; None for one that is not read."""
    if numbers.dtype == "I32":
        words = numbers.shape[-1]
        return "int4" if words * 8 == inputs else "int8" if words == -(-inputs // 4) else None
    return {"I8": "int8", "F8_E4M3": "float8"}.get(numbers.dtype)  # type: ignore[return-value]


def _groups(scale: StoredTensor, outputs: int) -> int | None:
    """Groups of inputs that have a scale each; None where scales do not go by outputs."""
    if scale.shape in ((), (1,), (1, 1)):
        return 1
    if scale.shape[0] != outputs or len(scale.shape) > 2:
        return None
    return scale.shape[1] if len(scale.shape) == 2 else 1
