"""Write a safetensors file tensor by tensor: the header first, from names and shapes, then each tensor's bytes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch

_NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32",
    torch.int8: "I8", torch.uint8: "U8", torch.float8_e4m3fn: "F8_E4M3", torch.float64: "F64",
}  # fmt: skip
Planned = tuple[torch.dtype, tuple[int, ...]]


class SafetensorsWriter:
    """A file of ``planned`` tensors, by name, with their dtype and shape; they are written in that order.

    It is complete when the block ends without an error. Raises OSError.
    """

    def __init__(self, file: Path, planned: Mapping[str, Planned]) -> None:
        self._file, self._planned = file, dict(planned)
        self._stream: BinaryIO | None = None
        self._left = iter(planned)

    def __enter__(self) -> "SafetensorsWriter":
        header, place = {"__metadata__": {"format": "pt"}}, 0
        for name, (dtype, shape) in self._planned.items():
            end = place + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [place, end]}  # type: ignore[dict-item]
            place = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._stream = self._file.open("wb")
        self._stream.write(len(text).to_bytes(8, "little") + text)
        return self

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """The next planned tensor, all of it."""
        planned = next(self._left)
        assert (planned, self._planned[planned]) == (name, (tensor.dtype, tuple(tensor.shape)))
        assert self._stream is not None
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        self._stream.write(memoryview(flat.numpy()))  # type: ignore[arg-type]

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        assert self._stream is not None
        self._stream.close()
        if kind is None:
            assert next(self._left, None) is None
