"""JSON as clients send it: read strictly, and refused with the place and the reason."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

from anyio import to_thread
from fastapi import Request

from app.api.bodies.kinds import JSON_WAY, check_headers, labelled, media_type, recognised, recording
from app.api.problems import InvalidFields, printable
from app.errors import MalformedBody, TooLarge

MOST_VALUES = 1_000_000  # in one body; each takes up to 100 bytes once it is read
SMALL = 1 << 16  # bytes that are read on the event loop; longer bodies go to a thread
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]", re.ASCII)
_PYTHON = re.compile(r"True|False|None|undefined")
_FORM = re.compile(rb"[\w\[\].-]{1,100}=")


async def read_json(request: Request, *, field: str | None = None, most_bytes: int | None = None) -> Any:
    """The value of a JSON body; None for an empty one.

    ``field``: where the route takes a recording, for those who send one bare. ``most_bytes``: of the body, where the
    route's own limit is that of files. Raises MalformedBody, InvalidFields or TooLarge.
    """
    check_headers(request.headers)
    return await _value_of(await _body(request, most_bytes), request, field)


async def _body(request: Request, most_bytes: int | None) -> bytes:
    """Raises TooLarge as soon as more has come."""
    if most_bytes is None:
        return await request.body()  # kept, for a second read
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most_bytes:
            raise TooLarge(f"A JSON body has at most {most_bytes >> 10} KB here; send files as a form.")
    return bytes(body)


async def _value_of(body: bytes, request: Request, field: str | None) -> Any:
    if not body.strip():
        return None
    kind, _ = media_type(request.headers)
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise MalformedBody(_mislabelled(kind, body[:200], field))
    if len(body) <= SMALL:
        return parse_json(body)
    return await to_thread.run_sync(parse_json, body)


def object_of(value: Any) -> dict[str, Any]:
    """A body as an object. Raises MalformedBody for anything else."""
    if isinstance(value, dict):
        return value
    if value is None:
        raise MalformedBody("The body is empty; send a JSON object, as `curl --json '{…}'` does.")
    kind = {list: "a list", str: "a string", bool: "true or false"}.get(type(value), "a number")
    raise MalformedBody(f"The body is {kind}; send a JSON object, {{…}}.")


def parse_json(body: bytes | str) -> Any:
    """One JSON value. A name that stands twice in an object, NaN and half characters are refused.

    Raises MalformedBody or InvalidFields.
    """
    data = body.encode(errors="surrogatepass") if isinstance(body, str) else body
    if sum(data.count(mark) for mark in b",[{") > MOST_VALUES:
        raise MalformedBody(f"The JSON holds more than {MOST_VALUES:,} values; send less in one request.")
    text = _decoded(data)
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise MalformedBody(f"The body is not JSON: {_reason(text, error)}") from None
    except RecursionError:
        raise MalformedBody("The JSON is nested too deeply to be read.") from None
    except ValueError:  # Python's bound on digits
        raise MalformedBody("The JSON holds a number of more digits than can be read.") from None
    if _HALF_PAIR.search(data):
        _refuse_halves(value)
    return value


def _decoded(data: bytes) -> str:
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if (known := recognised(data[:200])) not in (None, "JSON"):
            raise MalformedBody(f"The body is not JSON, it is {known}.") from None
        raise MalformedBody(
            f"The body is not {encoding.upper().removesuffix('-SIG')}: byte {error.start} does not fit. Send JSON in "
            "UTF-8."
        ) from None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name, times = Counter(name for name, _ in pairs).most_common(1)[0]
        said = printable(name)
        raise InvalidFields(f"'{said}' stands {times} times in one object; send it once.", [said])
    return found


def _no_number(name: str) -> NoReturn:
    raise MalformedBody(f"The body is not JSON: {name} is no number there; leave the field out, or send null.")


def _refuse_halves(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise MalformedBody(
            f"The JSON holds {half}, half of a character; send both halves, or the character."
        ) from None


def _reason(text: str, error: json.JSONDecodeError) -> str:
    """The decoder's words, or better ones for what people often do, with the place."""
    place = f"line {error.lineno}, column {error.colno}"
    at, before = text[error.pos : error.pos + 10], text[max(0, error.pos - 200) : error.pos].rstrip()[-1:]
    if error.msg.startswith(("Unterminated string", "Expecting")) and not text[error.pos :].strip("\"' \t\r\n"):
        return f"it ends too early ({place}); was it cut off?"
    if "trailing comma" in error.msg or (at[:1] in ("}", "]") and before == ","):
        return f"a comma stands before the closing bracket ({place})."
    if at[:1] == "'":
        return f"{place}: single quotes; JSON takes double quotes."
    if word := _PYTHON.match(at):
        return f"{place}: {word[0]} is not JSON's word; write true, false or null."
    if at.startswith(("//", "/*", "#")):
        return f"{place}: JSON has no comments."
    if error.msg.startswith("Invalid control character"):
        return f"{place}: a raw line break or control character in a string; write \\n."
    if error.msg.startswith("Invalid \\"):
        return f"{place}: a backslash that escapes nothing; write \\\\."
    if error.msg.startswith("Unterminated string"):
        return f"the string that begins in {place} does not end; was the body cut off?"
    if error.msg.startswith("Extra data"):
        return f"more follows after its end ({place}); send one object."
    if error.pos == 0 and (known := recognised(text[:200].encode())):
        return f"it is {known}. {JSON_WAY}"
    return f"{error.msg[:1].lower()}{error.msg[1:]} ({place})."


def _mislabelled(kind: str, head: bytes, field: str | None) -> str:
    """The error for a Content-Type other than JSON's: the kind of the body, and how to send it."""
    if recording(head) is not None:
        way = (
            f"send it as the form field `{field}`, as `curl -F {field}=@clip.wav` does"
            if field
            else "as base64 in JSON"
        )
        return f"The body is {recognised(head)}; this route takes JSON: {way}."
    known = recognised(head)
    if known is None and _FORM.match(head):
        known = "a form"
    if kind == "multipart/form-data":
        return f"{labelled(kind)}, but this route takes JSON, not a form. {JSON_WAY}"
    return f"{labelled(kind)}, and the body is {known or 'nothing known'}; this route takes JSON. {JSON_WAY}"
