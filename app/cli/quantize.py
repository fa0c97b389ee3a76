"""`overtone quantize`: write a model with its matrices in eight or four bits, for quick starts on small cards."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import Json, settings_with
from app.cli.output import err, out, print_json, reported
from app.errors import BadRequest


def quantize(
    model: Annotated[str, typer.Argument(help="Hub id or folder of an audio language model.", show_default=False)],
    to: Annotated[str, typer.Option(help="int4, int8 or float8.", show_default=False)],
    into: Annotated[Path, typer.Option("--out", help="The folder that is written.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace a model that lies there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a model with the language model's matrices quantised, in the format of compressed-tensors.

    `overtone serve --model FOLDER` then starts with them as they are. Adapters of the original fit.
    """
    with reported(as_json):
        from rich.progress import Progress

        from app.models.weights.quantize import quantize_checkpoint
        from app.quantization.formats import FORMATS

        kind = next((kind for kind in FORMATS if kind == to), None)
        if kind is None:
            raise BadRequest(f"--to {to[:40]}: the formats are {', '.join(FORMATS)}.")
        source = settings_with(model=model).model
        with Progress(console=err, transient=True) as shown:
            task = shown.add_task("Quantising …", total=None)
            written = quantize_checkpoint(
                source, kind, into, force, lambda done, of: shown.update(task, completed=done, total=of)
            )
        if as_json:
            print_json({"folder": str(into), "weights": kind, "bytes": written.after, "bytes_before": written.before})
            return
        out.print(f"{into}: {kind}, {written.after / 1e9:.2f} GB (before: {written.before / 1e9:.2f} GB)")
        err.print(f"[green]✓[/green] serve it with: overtone serve --model {into}")
