"""Routes that read bodies and queries strictly: of several values none is taken in place of another."""

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, get_args
from urllib.parse import parse_qsl, urlencode

from fastapi import Request, Response
from fastapi.params import Form
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import FormData

from app.api.bodies.form import read_form
from app.api.bodies.json import object_of, read_json
from app.api.problems import InvalidFields
from app.api.schemas.fields import KnownFields
from app.errors import BadRequest

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class _ReadRequest(Request):
    """A request whose body has been read and checked before FastAPI asks for it."""

    given_json: Any = None
    given_form: FormData | None = None

    async def json(self) -> Any:
        return self.given_json

    def form(self, **limits: Any) -> Any:
        return self._given() if self.given_form is not None else super().form(**limits)

    async def _given(self) -> FormData | None:
        return self.given_form


class StrictRoute(APIRoute):
    """A route whose body, where it has one, is a model with `KnownFields`."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def read(request: Request) -> Response:
            model = self._model()
            self._check_query(request, model)
            if model is None:
                return await handle(request)
            whole = _ReadRequest(request.scope, request.receive, request._send)
            if self.body_field is not None and isinstance(self.body_field.field_info, Form):
                whole.given_form = await read_form(whole, model)
            else:
                value = await read_json(whole, field=next(iter(model.files()), None))
                if value is not None or self.body_field is None or self.body_field.field_info.is_required():
                    value = object_of(value)
                whole.given_json = value
            return await handle(whole)

        return read

    def _model(self) -> type[KnownFields] | None:
        annotation = self.body_field.field_info.annotation if self.body_field is not None else None
        kinds = [annotation, *get_args(annotation)]
        return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, KnownFields)), None)

    def _check_query(self, request: Request, model: type[BaseModel] | None) -> None:
        """Leave empty parameters out; raises BadRequest for what stands twice, or belongs into the body."""
        pairs = parse_qsl(request.url.query, keep_blank_values=True)
        if not pairs:
            return
        own = {field.alias: field for field in self.dependant.query_params}
        kept = [(name, value) for name, value in pairs if name not in own or value.strip()]
        for name in {name for name, _ in pairs} - {name for name, _ in kept}:
            if own[name].field_info.is_required():
                raise InvalidFields(f"{name} is empty; this query parameter is required.", [name])
        counts = Counter(name for name, _ in kept)
        if twice := [name for name in own if counts[name] > 1]:
            reasons = " ".join(f"{name} stands {counts[name]} times in the query; send it once." for name in twice)
            raise InvalidFields(reasons, twice)
        if isinstance(model, type) and issubclass(model, KnownFields):
            astray = [name for name in counts if name in model.known()]
            if astray:
                raise BadRequest(f"{', '.join(astray)}: in the query this is not read; send it in the body.")
        request.scope["query_string"] = urlencode(kept).encode()
