"""Options that several commands share, and the settings they lead to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from app.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, nothing else.")]
Model = Annotated[str | None, typer.Option(help="Hub id or folder of an audio language model.", show_default=False)]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 …", show_default=False)]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.", show_default=False)]
Adapters = Annotated[Path | None, typer.Option(help="The registry folder.", show_default=False)]
Server = Annotated[
    str | None, typer.Option(help="Address of a running server, to act through it: 127.0.0.1:8000.", show_default=False)
]
ApiKey = Annotated[str | None, typer.Option(help="Key of that server.", show_default=False)]


def settings_with(**overrides: Any) -> "Settings":
    """The environment's settings with those options that were given; unknown variables are named on stderr.

    Raises BadRequest.
    """
    from app.cli.output import note
    from app.settings import read_settings, unknown_variables

    for sentence in unknown_variables():
        note(sentence)
    return read_settings(**overrides)
