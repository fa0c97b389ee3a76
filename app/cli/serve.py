"""`overtone serve`: the HTTP service in the foreground."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.panel import Panel
from rich.table import Table

from app.cli.options import Adapters, Device, Dtype, Model, settings_with
from app.cli.output import err, reported

if TYPE_CHECKING:
    from app.settings import Settings


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default=False)] = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    adapters: Adapters = None,
) -> None:
    """Keep one model resident and answer over HTTP.

    Every setting is also an OVERTONE_ variable, in the environment or in .env; options win.
    """
    with reported(as_json=False):
        settings = settings_with(host=host, port=port, model=model, device=device, dtype=dtype, adapters=adapters)
        from app.main import serve as serve_http

        err.print(_banner(settings))
        serve_http(settings)


def _banner(settings: "Settings") -> Panel:
    from app import __version__
    from app.model.base import pick_device, pick_dtype

    device = pick_device(settings.device)
    dtype = str(pick_dtype(settings.dtype, device)).removeprefix("torch.")
    url = f"http://{settings.host}:{settings.port}"
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("model", settings.model),
        ("device", f"{device}, {dtype}"),
        ("adapters", str(settings.adapters.resolve())),
        ("listens on", f"{url}  (API at /docs, stop with Ctrl+C)"),
    ):
        facts.add_row(f"[dim]{name}[/dim]", value)
    return Panel(facts, title=f"overtone {__version__}", title_align="left", expand=False)
