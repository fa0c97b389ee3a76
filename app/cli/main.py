"""The `overtone` command. Each subcommand imports what it needs when it runs, so that --help is quick."""

import typer

from app.cli.adapters import app as adapters
from app.cli.bench import bench
from app.cli.data import app as data
from app.cli.demo import demo
from app.cli.generate import generate
from app.cli.keys import app as keys
from app.cli.plan import plan
from app.cli.quantize import quantize
from app.cli.serve import serve
from app.cli.training import PASSED_ON, compare_methods, sample_data, train

app = typer.Typer(
    name="overtone",
    help="One resident audio language model, many LoRA adapters, chosen per request.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(serve)
app.command()(generate)
app.command()(demo)
app.command()(bench)
app.command()(plan)
app.command()(quantize)
for program in (train, compare_methods, sample_data):
    app.command(program.__name__.replace("_", "-"), context_settings=PASSED_ON)(program)
app.add_typer(adapters, name="adapters")
app.add_typer(keys, name="keys")
app.add_typer(data, name="data")


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True)) -> None:
    if version:
        from app import __version__

        typer.echo(f"overtone {__version__}")
        raise typer.Exit()


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
