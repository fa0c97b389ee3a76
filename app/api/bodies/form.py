"""Forms as clients send them: each field once unless it is a list, empty ones left out, text apart from files."""

import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterable

from fastapi import Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from app.api.bodies.kinds import check_headers, labelled, media_type, recognised, recording
from app.api.problems import InvalidFields
from app.api.schemas.fields import KnownFields
from app.errors import BadRequest, MalformedBody

MULTIPART, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
TAIL = 4096  # bytes; some clients send a line or two after the last boundary
MOST_FILES, MOST_FIELDS = 100, 200
Value = UploadFile | str
# `stop[]`, `stop[0]`: how several clients name the elements of a list
_ELEMENT = re.compile(r"(.+?)\[\d{0,3}\]")


class _WholeForm(Request):
    """A request whose multipart body must end with its last boundary: the parser leaves a cut part out in silence."""

    last = b""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        tail = b""
        async for chunk in super().stream():
            tail = (tail + chunk[-TAIL:])[-TAIL:]
            yield chunk
        if self.last not in tail:
            raise MultiPartException("it ends without its last boundary, as if it were cut off")


async def read_form(request: Request, model: type[KnownFields], *, most_files: int = MOST_FILES) -> FormData:
    """The fields of a form under the names of ``model``; at most ``most_files`` files.

    Raises MalformedBody for a body that is no form, BadRequest or InvalidFields for other fields than the route's.
    """
    request = _WholeForm(request.scope, request.receive)
    check_headers(request.headers)
    kind, parameters = media_type(request.headers)
    if kind not in (MULTIPART, URLENCODED):
        await _refuse_other(request, kind, model)
        return FormData()
    if kind == MULTIPART and not parameters.get("boundary"):
        raise MalformedBody(
            "The header Content-Type names no boundary, so the form cannot be read: let your client set this header "
            "itself, as `curl -F` does."
        )
    if kind == MULTIPART:
        request.last = f"--{parameters['boundary']}--".encode("latin-1")
    else:
        _refuse_mislabelled(await request.body(), kind, model)
    try:
        form = await request.form(max_files=most_files, max_fields=MOST_FIELDS)
    except FormParserError as error:
        raise MalformedBody(f"The form cannot be read: {str(error).rstrip('.')}. Send it as `curl -F` does.") from None
    try:
        return FormData(tidy(form.multi_items(), model))
    except BaseException:
        await form.close()
        raise


def tidy(items: Iterable[tuple[str, Value]], model: type[KnownFields]) -> list[tuple[str, Value]]:
    """The fields of a form under the model's names, without empty ones.

    Raises InvalidFields for unknown fields, for one that is sent twice and is no list, for a file in place of text or
    text in place of a file, and for a required one that is empty.
    """
    named = [(_canonical(name, model), value) for name, value in items]
    named = [(name, value) for name, value in named if model.supported({name: value})]
    model.refuse_unknown(name for name, _ in named)
    kept = [(name, value) for name, value in named if not _is_empty(name, value, model)]
    for name in {name for name, _ in named} - {name for name, _ in kept}:
        model.refuse_empty(name)
    counts = Counter(name for name, _ in kept)
    lists = model.lists()
    if twice := [name for name, times in counts.items() if times > 1 and name not in lists]:
        reasons = " ".join(f"{name} was sent {counts[name]} times; send it once." for name in twice)
        raise InvalidFields(reasons, twice)
    known, files = model.known(), model.files()
    for name, value in kept:
        if name in known and isinstance(value, UploadFile) != (name in files):
            raise InvalidFields(_other_kind(name, value), [name])
    return kept


def _canonical(name: str, model: type[KnownFields]) -> str:
    """The name that the model knows the field by."""
    known = model.known()
    element = _ELEMENT.fullmatch(name)
    base = element[1] if element else name
    return next((one for one in (name, base, f"{base}[]") if one in known), name)


def _is_empty(name: str, value: Value, model: type[KnownFields]) -> bool:
    if isinstance(value, UploadFile):  # a file input of a browser into which nothing was put
        return not value.filename and not value.size
    return model.is_empty(name, value)


def _other_kind(name: str, value: Value) -> str:
    if isinstance(value, UploadFile):
        return f"{name} came as a file; send it as text, as `curl -F '{name}=<file.txt'` does."
    return f"{name}: this is text ({value[:40]!r}); send a file, as `curl -F {name}=@clip.wav` does."


async def _refuse_other(request: Request, kind: str, model: type[KnownFields]) -> None:
    """Raises BadRequest for a body that is not labelled as a form. Nothing at all is an empty form."""
    head = b""
    async for chunk in request.stream():
        head = chunk[:200]
        if head:
            break
    if head or kind:
        raise BadRequest(_no_form(head, kind, model))


def _refuse_mislabelled(body: bytes, kind: str, model: type[KnownFields]) -> None:
    """Raises BadRequest for what `curl -d` and `--data-binary` send under a form's name."""
    if recognised(body[:200]) is not None:
        raise BadRequest(_no_form(body[:200], kind, model))


def _no_form(head: bytes, kind: str, model: type[KnownFields]) -> str:
    field = next(iter(sorted(model.files())), "file")
    if recording(head) is not None:
        return (
            f"{labelled(kind)}, and the body is {recognised(head)}: send it as the form field `{field}`, as "
            f"`curl -F {field}=@clip.wav` does."
        )
    is_what = f"; the body is {recognised(head)}" if recognised(head) else ""
    return (
        f"Send the fields as multipart/form-data, as `curl -F` does. {labelled(kind)}{is_what}, which is not read here."
    )
