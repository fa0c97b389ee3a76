"""`overtone bench --quality`: what each format of weights costs."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from app.cli.output import err, out, print_json

if TYPE_CHECKING:
    from app.bench.quality import Quality
    from app.settings import Settings


def run_quality(settings: "Settings", table: Path, as_json: bool) -> None:
    """Measure every format on the recordings that ``table`` names, and print a table."""
    from app.bench.quality import measure_quality
    from app.models.loading import pick_device, pick_dtype
    from app.quantization.formats import FORMATS

    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    with err.status("Loading the model …") as status:
        found = list(measure_quality(settings.model, FORMATS, table, device, dtype, status.update))
    if as_json:
        print_json([one.as_dict() for one in found])
    else:
        out.print(_table(found))


def _table(found: "list[Quality]") -> Table:
    table = Table(title="weights at rest")
    for column in ("weights", "GB", "word errors", "KL mean, nats", "KL largest", "tokens changed"):
        table.add_column(column, justify="left" if column == "weights" else "right")
    for one in found:
        table.add_row(
            one.weights, f"{one.gigabytes:.3f}", f"{one.wer:.1%}", f"{one.mean_divergence:.1e}",
            f"{one.largest_divergence:.1e}", f"{one.changed:.1%}",
        )  # fmt: skip
    return table
