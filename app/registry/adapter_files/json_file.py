"""JSON files of an adapter, read with bounds and with words for what is wrong."""

import codecs
import json
import re
from pathlib import Path
from typing import Any

from app.errors import BadRequest
from app.registry.adapter_files.recognise import SAMPLE, kind_of

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_TRAILING_COMMA = re.compile(r",\s*[}\]]")
_COMMENT = re.compile(r"(?m)^\s*(//|#|/\*)|[,{\[]\s*(//|/\*|#)")


def read_json(file: Path, max_bytes: int) -> dict[str, Any]:
    """The object in ``file``. A byte order mark is taken; raises BadRequest with the place of what is wrong.

    Raises FileNotFoundError where there is no file.
    """
    name = file.name
    try:
        size = file.stat().st_size
        if size > max_bytes:
            raise BadRequest(f"{name} has {size:,} bytes; it may have {max_bytes:,}")
        data = file.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadRequest(f"{name} cannot be read ({type(error).__name__})") from None
    return parse_json(name, data)


def parse_json(name: str, data: bytes) -> dict[str, Any]:
    """The object in ``data``; raises as `read_json` does, but for sizes."""
    text = _decoded(name, data)
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise BadRequest(_no_json(name, text, error, data)) from None
    except _Twice as error:
        raise BadRequest(f"{name} has {str(error)[:80]!r} twice: keep the one that was trained with") from None
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{name} cannot be read ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise BadRequest(f"{name} holds a {type(found).__name__}, not an object in braces")
    return found


class _Twice(Exception):
    """A field stands twice in one object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise _Twice(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return found


def _decoded(name: str, data: bytes) -> str:
    kind = kind_of(data[:SAMPLE], len(data))
    if kind is not None:
        raise BadRequest(f"{name} is {kind}")
    if data.startswith(_UTF32) or data.startswith(_UTF16) or b"\0" in data[:2]:
        raise BadRequest(f"{name} is in UTF-16 or UTF-32; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadRequest(f"{name} is not in UTF-8: line {line}, byte {error.start}; save it as UTF-8") from None


def _no_json(name: str, text: str, error: json.JSONDecodeError, data: bytes) -> str:
    place = f"line {error.lineno}, column {error.colno}"
    if not text.strip():
        return f"{name} is blank"
    before = text[max(0, error.pos - 200) : error.pos + 200]
    if (_TRAILING_COMMA.search(before) and "Expecting" in error.msg) or "trailing comma" in error.msg:
        return f"{name} is no JSON: {place}: a comma before the closing bracket; take it out"
    if _COMMENT.search(text[max(0, error.pos - 2) : error.pos + 2]) or text[error.pos : error.pos + 2] in ("//", "/*"):
        return f"{name} is no JSON: {place}: a comment, which JSON does not have; take it out"
    if error.pos >= len(text.rstrip()):
        return f"{name} is no JSON: {place}: it ends too early; the file was cut off"
    if text[error.pos : error.pos + 1] == "'":
        return f"{name} is no JSON: {place}: single quotes; JSON has double ones"
    return f"{name} is no JSON: {place}: {error.msg}"
