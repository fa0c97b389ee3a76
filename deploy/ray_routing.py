"""The adapter that a request names, read from its bytes without parsing it.

A hint for routing: where it is wrong, a replica loads an adapter that another one had.
"""

import re
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import Scope

ASKING = ("/generate", "/compare", "/classify", "/v1/chat/completions", "/v1/audio/transcriptions")
_LENGTH = 400
_IN_PATH = re.compile(r"/adapters/([^/]+)/pin")
_IN_FORM = re.compile(
    rb'content-disposition:[^\r\n]*;\s*name="?(?:adapters?|model)"?[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,400})\r\n',
    re.IGNORECASE,
)
_IN_JSON = re.compile(rb'"(?:adapter|model)"\s*:\s*"([^"\\]{1,400})"')
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def adapter_of(scope: Scope, body: bytes) -> str:
    """The adapter, of a mix the first; empty for none."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if pinned := _IN_PATH.fullmatch(path):
        named = pinned.group(1)
    elif path in ASKING:
        kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
        named = _in_body(kind, body)
    else:
        return ""
    name = named.partition(",")[0].partition(":")[0].strip()
    return name if _NAME.fullmatch(name) and name != "base" else ""


def _in_body(kind: str, body: bytes) -> str:
    if kind == "application/x-www-form-urlencoded":
        fields = parse_qs(body.decode("latin-1"))
        return (fields.get("adapter") or fields.get("model") or [""])[0][:_LENGTH]
    found = (_IN_JSON if kind == "application/json" else _IN_FORM).search(body)
    return found.group(1).decode("latin-1") if found else ""
