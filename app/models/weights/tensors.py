"""Tensors of a safetensors file, read once."""

from io import FileIO
from pathlib import Path

import torch
from safetensors import SafetensorError

from app.errors import ModelRejected
from app.models.weights.safetensors_header import StoredTensor, read_header

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of ``file``, in memory of their own. Raises OSError, SafetensorError.

    The safetensors package maps the file into memory, where whoever writes over it later changes the tensors and
    whoever cuts it short kills the process that looks at them; or it copies all tensors while it holds the
    interpreter's lock, 0.3 s for an adapter of rank 64 on every layer of a 7B, and every stream waits.
    """
    try:
        stored = read_header(file)
    except ModelRejected as error:
        raise SafetensorError(error.reason) from None
    with file.open("rb", buffering=0) as stream:
        return {tensor.name: _read(stream, tensor) for tensor in stored}


def _read(stream: FileIO, tensor: StoredTensor) -> torch.Tensor:
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        raise SafetensorError(f"torch has no dtype for {tensor.name}, which is {tensor.dtype}")
    content = torch.empty(tensor.end - tensor.start, dtype=torch.uint8)
    try:
        _fill(stream, content, tensor.start)
    except EOFError:
        raise SafetensorError(f"the file ends within {tensor.name}") from None
    return content.view(dtype).reshape(tensor.shape)


def _fill(stream: FileIO, content: torch.Tensor, start: int) -> None:
    """Read bytes from ``start`` on until ``content`` is full. Raises EOFError where the file ends before."""
    rest = memoryview(content.numpy())  # type: ignore[arg-type]  # numpy's stubs know no buffers before Python 3.12
    stream.seek(start)
    while rest:
        count = stream.readinto(rest)
        if not count:
            raise EOFError
        rest = rest[count:]


def read_rows(tensor: StoredTensor, first: int, last: int) -> torch.Tensor:
    """Rows ``first`` to ``last`` of a tensor, along its first dimension, in the file's dtype.

    A tensor without dimensions has one row. Raises ModelRejected where the file is no longer as its header said.
    """
    dtype, count = DTYPES[tensor.dtype], tensor.shape[0] if tensor.shape else 1
    size = (tensor.end - tensor.start) // max(count, 1)
    content = torch.empty((last - first) * size, dtype=torch.uint8)
    with tensor.file.open("rb", buffering=0) as stream:
        try:
            _fill(stream, content, tensor.start + first * size)
        except EOFError:
            raise ModelRejected(f"{tensor.file.name} ends within {tensor.name}: it has changed meanwhile.") from None
    return content.view(dtype).reshape(last - first, *tensor.shape[1:])
