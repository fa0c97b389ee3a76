"""Recordings as base64, the way people write it: in lines, URL-safe, without padding, behind a `data:` prefix."""

import base64
import re
from urllib.parse import unquote

BLOCK = 1 << 20  # characters, whole groups of four: other threads get a turn between two blocks
WIDTHS = (60, 64, 72, 76)  # of lines, as openssl, PEM, MIME and the base64 command break them
_PREFIX = re.compile(r"\s*data:([^,]{0,200}),", re.IGNORECASE)
_FOREIGN = re.compile(r"[^A-Za-z0-9+/]")
_URL_SAFE = str.maketrans("-_", "+/")


class NotBase64(ValueError):
    """The reason, in words that follow "the audio"."""


def decode(text: str) -> bytes:
    """The bytes of a recording. Raises NotBase64. Blocking for a long one."""
    if prefix := _PREFIX.match(text[:300]):
        if not prefix[1].lower().replace(" ", "").endswith("base64"):
            raise NotBase64("is a data URI without ;base64; write data:audio/wav;base64,…")
        text = text[prefix.end() :]
        if "%" in text:
            text = unquote(text)
    text = _without_breaks(text).translate(_URL_SAFE)
    digits = text.rstrip("=")
    if not digits:
        raise NotBase64("is empty")
    if foreign := _FOREIGN.search(digits):
        raise NotBase64(f"is not base64: {foreign[0]!r} at character {foreign.start() + 1} does not belong there")
    if len(digits) % 4 == 1:
        raise NotBase64(f"is base64 that was cut off: {len(digits)} characters are no whole number of bytes")
    padded = digits + "=" * (-len(digits) % 4)
    return b"".join(base64.b64decode(padded[start : start + BLOCK]) for start in range(0, len(padded), BLOCK))


def _without_breaks(text: str) -> str:
    """The text without line breaks and indents.

    A space may be a break that a shell has joined, or a plus that a form has decoded, which would be other bytes: text
    with spaces must be whole, and a space inside a line may only stand where tools break lines.
    """
    lines = [line.strip() for line in text.strip("\r\n").splitlines()]
    joined = "".join("".join(line.split()) for line in lines)
    if " " not in text:
        return joined
    inside = any(" " in line for line in lines)
    if len(joined) % 4 or (inside and not (len(lines) == 1 and _broken_by_tools(lines[0].split()))):
        raise NotBase64("is not base64: it holds spaces; was each '+' turned into one on its way?")
    return joined


def _broken_by_tools(pieces: list[str]) -> bool:
    width = len(pieces[0])
    return width in WIDTHS and all(len(piece) == width for piece in pieces[:-1]) and len(pieces[-1]) <= width
