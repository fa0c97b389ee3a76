"""`/` and `/web/…`: the page. Its files are the same for everyone; what it shows it asks the API for."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response

WEB = Path(__file__).parents[1] / "web"
# Nothing from elsewhere, nothing inline; recordings are played from memory
POLICY = (
    "default-src 'self'; media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
FRESH = {"Cache-Control": "no-cache"}  # asked for again with its ETag: an update is seen at once

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> FileResponse:
    """The page itself; needs no key, since it asks for one."""
    return FileResponse(WEB / "index.html", headers=FRESH | {"Content-Security-Policy": POLICY})


class WebFiles(StaticFiles):
    """Scripts, styles and pictures of the page."""

    def __init__(self) -> None:
        super().__init__(directory=WEB)

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(FRESH)
        return response
