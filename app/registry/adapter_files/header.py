"""The header of a safetensors file, checked before anything makes tensors of it."""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import BadRequest
from app.registry.adapter_files.recognise import SAMPLE, kind_of

MAX_HEADER = 32 << 20
MAX_TENSORS = 65_536
MAX_NAME = 1000
_MAX_DIMENSIONS = 8
_MAX_SIDE = 1 << 40
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    dtype: str
    shape: tuple[int, ...]


def read_header(file: Path) -> dict[str, Entry]:
    """All tensors of a file by key.

    Raises BadRequest, which names the file's kind, the place where it is cut off, or the value out of bounds; OSError
    where it cannot be read.
    """
    name, size = file.name, file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(SAMPLE)
        kind = kind_of(head, size)
        length = struct.unpack("<Q", head[:8])[0] if len(head) >= 8 else None
        if length is None or head[8:9] != b"{":
            raise BadRequest(f"{name} is no readable safetensors file" + (f": it is {kind}" if kind else ""))
        if length > MAX_HEADER:
            raise BadRequest(f"{name} has a header of {length:,} bytes, more than {MAX_HEADER:,}: no adapter's")
        if length + 8 > size:
            raise BadRequest(f"{name} is cut off: {size:,} bytes, and its header alone {length + 8:,}; fetch it again")
        stream.seek(8)
        header = stream.read(length)
    return _entries(name, header, size - 8 - length)


def _entries(name: str, header: bytes, data: int) -> dict[str, Entry]:
    try:
        listed = json.loads(header, object_pairs_hook=_once)
    except _Twice as error:
        raise BadRequest(f"{name} lists {str(error)[:200]} twice: it is not known which one was trained") from None
    except (ValueError, RecursionError):
        raise BadRequest(f"{name} is no readable safetensors file: its header is no JSON") from None
    if not isinstance(listed, dict):
        raise BadRequest(f"{name} is no readable safetensors file: its header is no object")
    listed.pop("__metadata__", None)
    if len(listed) > MAX_TENSORS:
        raise BadRequest(f"{name} has {len(listed):,} tensors, more than {MAX_TENSORS:,}: no adapter's")
    found, last = {}, 0
    for key, entry in listed.items():
        found[key], end = _entry(name, key, entry)
        last = max(last, end)
    if last > data:
        raise BadRequest(f"{name} is cut off: {data:,} of {last:,} bytes of its tensors are there; fetch it again")
    return found


def _entry(name: str, key: str, entry: Any) -> tuple[Entry, int]:
    where = f"{name}: {key[:200]}"
    if len(key) > MAX_NAME:
        raise BadRequest(f"{where}…: a name of {len(key):,} characters")
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sides = [side for side in shape if type(side) is int and 0 <= side <= _MAX_SIDE]
        whole = type(start) is int and type(end) is int and 0 <= start <= end
    except (TypeError, KeyError, ValueError):
        raise BadRequest(f"{where}: its entry in the header is broken") from None
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise BadRequest(f"{where} is {str(dtype)[:20]}, which no tuner trains; save it as bfloat16 or float32")
    if len(sides) != len(shape) or len(shape) > _MAX_DIMENSIONS or not whole:
        raise BadRequest(f"{where} has the shape {str(shape)[:60]}, which no layer has")
    if math.prod(sides) * _BYTES[dtype] != end - start:
        raise BadRequest(f"{where}: its shape {tuple(sides)} and its {end - start:,} bytes do not fit together")
    return Entry(dtype, tuple(sides)), end


class _Twice(Exception):
    """A key stands twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(key)
        found[key] = value
    return found
