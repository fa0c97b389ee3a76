"""Options that several commands share, and the settings they lead to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.errors import BadRequest

if TYPE_CHECKING:
    from app.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, nothing else.")]
Model = Annotated[str | None, typer.Option(help="Hub id or local folder of a Qwen2-Audio model.", show_default=False)]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 …", show_default=False)]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.", show_default=False)]
Adapters = Annotated[Path | None, typer.Option(help="The registry folder.", show_default=False)]
Server = Annotated[str | None, typer.Option(help="URL of a running server, to act through it.", show_default=False)]
ApiKey = Annotated[str | None, typer.Option(help="Key of that server.", show_default=False)]


def settings_with(**overrides: Any) -> "Settings":
    """The environment's settings with those options that were given. Raises BadRequest."""
    from pydantic import ValidationError

    from app.settings import Settings

    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        reasons = (f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
        raise BadRequest(
            f"A setting is wrong: {'; '.join(reasons)}. Correct the option or the OVERTONE_ variable of that name."
        ) from None
