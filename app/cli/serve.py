"""`overtone serve`: the HTTP service in the foreground."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from app.cli.options import Adapters, Device, Dtype, Model, settings_with
from app.cli.output import err, note, reported

if TYPE_CHECKING:
    from app.settings import Settings

WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104, only their names
HOLDS_AN_ADAPTER = ("adapter_config.json", "head.json")


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
        from app.listening import listening_sockets

        with ExitStack() as opened:  # before the imports and the model, which take time
            sockets = [opened.enter_context(one) for one in listening_sockets(settings.host, settings.port)]
            from app.main import serve as serve_http
            from app.models.driver import advice

            err.print(banner(settings, sockets[0].getsockname()[1]))
            if settings.device == "auto" and (told := advice()):
                note(told)
            serve_http(settings, sockets)


def banner(settings: "Settings", port: int) -> Panel:
    """The address of the page and of the API, the model, its device, and how many adapters there are."""
    from app import __version__
    from app.models.loading import pick_device, pick_dtype

    device = pick_device(settings.device)
    dtype = str(pick_dtype(settings.dtype, device)).removeprefix("torch.")
    url = page_url(settings.host, port)
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("page", f"{url}  (stop with Ctrl+C)"),
        ("API", f"{url}/docs"),
        *([("listens on", f"every address of this machine, port {port}")] if settings.host in WILDCARDS else []),
        ("model", settings.model),
        ("device", f"{device}, {dtype}"),
        ("adapters", _adapters(settings)),
    ):
        facts.add_row(Text(name, "dim"), Text(value, overflow="fold"))
    return Panel(facts, title=f"overtone {__version__}", title_align="left", expand=False)


def page_url(host: str, port: int) -> str:
    """The page's address as a browser on this machine takes it."""
    host = WILDCARDS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _adapters(settings: "Settings") -> str:
    """`2 in /srv/adapters`: the folders that hold an adapter, whether or not it can be served."""
    root = settings.adapters.resolve()
    if settings.shared_adapters:
        return f"from {settings.shared_adapters}, kept in {root}"
    if not root.is_dir():
        return f"none: the folder {root} does not exist and is made now"
    return f"{sum(map(_holds_an_adapter, root.iterdir()))} in {root}"


def _holds_an_adapter(folder: Path) -> bool:
    return not folder.name.startswith(".") and any((folder / file).is_file() for file in HOLDS_AN_ADAPTER)
