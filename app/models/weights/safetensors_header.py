"""The header of a safetensors file: its tensors, checked against the file's size before anything is loaded.

The `safetensors` package refuses most damaged files as well, but names neither the file nor its tensors.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import ModelRejected

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # what the parameters of a plain checkpoint are stored in
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16} | {
    "I32": 32, "U32": 32, "I64": 64, "U64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
} | {name: 8 * size for name, size in BYTES.items()}  # fmt: skip
_MOST_HEADER_BYTES = 100_000_000  # the format's own limit
_LFS_POINTER = b"version https://git-lfs"
SHOWN = 3
AGAIN = "Download or copy it again."


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: its name there, dtype (`F16` …), shape, and bytes [start, end) of the file."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def refuse_pointer(file: Path, beginning: bytes) -> None:
    """Raise ModelRejected for a file of Git LFS that was cloned without its content, and for a web page."""
    if beginning.startswith(_LFS_POINTER):
        raise ModelRejected(
            f"{file.name} is a Git LFS pointer, not the file itself; run `git lfs pull` in the model's folder, "
            "or download it with `hf download`."
        )
    if beginning.lstrip()[:1] == b"<":
        raise ModelRejected(f"{file.name} is a web page, not the file itself. {AGAIN}")


def read_header(file: Path) -> list[StoredTensor]:
    """The tensors of a safetensors file, in the order of their bytes.

    Raises ModelRejected, with the file's name and the tensors concerned, where the header is damaged, or says
    anything else than the file's size does.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            beginning = stream.read(64)
            refuse_pointer(file, beginning)
            length = int.from_bytes(beginning[:8], "little")
            if size < 8 or length > min(size - 8, _MOST_HEADER_BYTES):
                raise ModelRejected(
                    f"{file.name} ({size} bytes) is cut off in its header, or no safetensors file. {AGAIN}"
                )
            stream.seek(8)
            header = _parsed(file, stream.read(length))
    except OSError as error:
        raise ModelRejected(f"{file.name} cannot be read: {error.strerror or error}.") from None
    tensors = sorted(
        (_tensor(file, 8 + length, *item) for item in header), key=lambda tensor: (tensor.start, tensor.end)
    )
    _refuse_gaps(file, tensors, 8 + length, size)
    return tensors


def _parsed(file: Path, text: bytes) -> list[tuple[str, Any]]:
    """Pairs of name and entry; a name that comes twice is kept twice by the parser, and refused here."""
    try:
        pairs: Any = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        pairs = None
    if not isinstance(pairs, _Pairs):
        raise ModelRejected(f"The header of {file.name} is damaged. {AGAIN}")
    found = [(name, entry) for name, entry in pairs if name != "__metadata__"]
    if twice := [name for name, count in Counter(name for name, _ in found).items() if count > 1]:
        raise ModelRejected(f"{file.name} holds {named(twice)} more than once. {AGAIN}")
    return found


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its doubles."""


def _tensor(file: Path, data: int, name: str, entry: Any) -> StoredTensor:
    entry = dict(entry) if isinstance(entry, _Pairs) else {}
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (dtype in _BITS and _counts(shape) and _counts(offsets) and len(offsets) == 2):
        raise ModelRejected(f"The header of {file.name} is damaged at {name}. {AGAIN}")
    start, end = offsets
    if (end - start) * 8 != math.prod(shape) * _BITS[dtype]:
        raise ModelRejected(
            f"{file.name} is damaged: {name} is {dtype} of shape {list(shape)}, which does not fill its {end - start} "
            f"bytes. {AGAIN}"
        )
    return StoredTensor(file, name, dtype, tuple(shape), data + start, data + end)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 1 << 63 for one in value)


def _refuse_gaps(file: Path, tensors: list[StoredTensor], begin: int, size: int) -> None:
    """The tensors fill the file without a gap, without sharing bytes, and to its end."""
    place = begin
    for tensor in tensors:
        if tensor.start != place:
            raise ModelRejected(
                f"{file.name} is damaged: the bytes of {tensor.name} overlap others or leave a gap. {AGAIN}"
            )
        place = tensor.end
    if size < place:
        lost = [tensor.name for tensor in tensors if tensor.end > size]
        raise ModelRejected(
            f"{file.name} is cut off: {size} of {place} bytes are there, without {named(lost)} ({len(lost)} of "
            f"{len(tensors)} tensors). {AGAIN}"
        )
    if size > place:
        raise ModelRejected(f"{file.name} has {size - place} bytes that belong to no tensor. {AGAIN}")
