"""`/`, `/docs` and `/web/…`: the page, and the API's own pages.

Their files are the same for everyone and hold no secret; what they show they ask the API for.
"""

import html
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response

WEB = Path(__file__).parents[2] / "web"
# Nothing from elsewhere, nothing inline; recordings are played from memory
POLICY = (
    "default-src 'self'; media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
# Swagger UI's icons are data URIs in its style sheet, and it writes styles into its own elements
DOCS_POLICY = POLICY.replace("media-src", "img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; media-src")
FRESH = {"Cache-Control": "no-cache"}  # asked for again with its ETag: an update is seen at once

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> FileResponse:
    """The page itself; needs no key, since it asks for one."""
    return FileResponse(WEB / "index.html", headers=FRESH | {"Content-Security-Policy": POLICY})


@router.get("/docs")
def docs(request: Request) -> HTMLResponse:
    """Swagger UI over `/openapi.json`, without a network; its "Authorize" button takes a key."""
    root = html.escape(request.scope.get("root_path", ""))
    text = (WEB / "docs.html").read_text().replace("{root}", root)
    return HTMLResponse(text, headers=FRESH | {"Content-Security-Policy": DOCS_POLICY})


@router.get("/docs/swagger-ui.css")
@router.get("/docs/swagger-ui-bundle.js")
def docs_file(request: Request) -> FileResponse:
    """Swagger UI's own files, from the package that carries them."""
    return FileResponse(swagger_ui() / Path(request.url.path).name, headers=FRESH)


def swagger_ui() -> Path:
    """The folder of Swagger UI's files. The package is not imported: it makes an app of its own."""
    spec = find_spec("fastapi_offline")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "static"


class WebFiles(StaticFiles):
    """Scripts, styles and pictures of the page."""

    def __init__(self) -> None:
        super().__init__(directory=WEB)

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(FRESH)
        return response
