"""`python -m training …`: train an adapter, compare the methods, write a data set to try them on."""

import json
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.errors import AdapterRejected, BadRequest, DatasetError, OvertoneError, path_error

if TYPE_CHECKING:
    from app.settings import Settings
    from training.events import Events
    from training.options import TrainOptions
    from training.run import Run

app = typer.Typer(
    name="training",
    help="Turn recordings into adapters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
REFUSED = 2  # exit code when the gate or the options say no
ALIASES = {"batch_size": "batch", "audio_tower": "include_audio_tower"}

Name = Annotated[
    str | None,
    typer.Option(help="Of the adapter [required to train]; a taken name gets its next version.", show_default=False),
]
Model = Annotated[str | None, typer.Option(help="Hub id or folder of an audio language model.", show_default=False)]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 …", show_default=False)]
Allow = Annotated[str, typer.Option(help="Codes of the gate to go on in spite of, with commas.", show_default=False)]
Set = Annotated[list[str], typer.Option("--set", help="Any option: --set learning_rate=1e-4", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, nothing else.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]
Folder = Annotated[Path | None, typer.Option(help="Checkpoint, logs and curves. Default: runs/NAME.")]


@app.callback()
def _quiet() -> None:
    # PEFT 0.21 asks transformers 5.23 for a name that it has since deprecated
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)


@app.command()
def train(
    data: Annotated[str, typer.Argument(help="JSONL, CSV, a folder, or hf:owner/name.", show_default=False)],
    name: Name = None,
    method: Annotated[str, typer.Option(help="lora, projector or head.")] = "lora",
    weights: Annotated[
        str | None, typer.Option(help="The base's matrices: bfloat16, float8, int8, int4.", show_default=False)
    ] = None,
    preset: Annotated[str | None, typer.Option(help="LoRA: seed, balanced or strong.", show_default=False)] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.", show_default=False)] = None,
    validation: Annotated[str | None, typer.Option(help="Rows held out, default: a tenth.", show_default=False)] = None,
    also: Annotated[
        list[str] | None, typer.Option(help="More data, whose rows are added; may be repeated.", show_default=False)
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="current: go on from the name's own version.", show_default=False)
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="For rows that bring none.", show_default=False)] = None,
    task: Annotated[str | None, typer.Option(help="One line on what it does, for its card.")] = None,
    dora: Annotated[bool, typer.Option("--dora", help="Weight-decomposed LoRA (served alone).")] = False,
    eva: Annotated[bool, typer.Option("--eva", help="Initialise from the activations.")] = False,
    include_audio_tower: Annotated[
        bool, typer.Option("--include-audio-tower", help="Adapt the audio tower as well.")
    ] = False,
    lora_plus: Annotated[float | None, typer.Option(help="LoRA+: rate of B over that of A, such as 16.")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA: default: the preset's.", show_default=False)] = None,
    hidden: Annotated[int | None, typer.Option(help="Head: width of its hidden layer. Default: linear.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all that is drawn at random.", show_default=False)] = None,
    settings: Set = [],  # noqa: B006, typer copies it
    allow: Allow = "",
    check: Annotated[bool, typer.Option("--check", help="Only read the data and pass the gate.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only measure a few steps.")] = False,
    push_to_hub: Annotated[str | None, typer.Option(help="Upload to this Hub repository too.")] = None,
    model: Model = None,
    device: Device = None,
    audio_root: Annotated[
        list[str] | None, typer.Option(help="Refuse recordings outside of it; may be repeated.", show_default=False)
    ] = None,
    registry: Annotated[
        Path | None, typer.Option("--registry", "--adapters", help="The registry folder.", show_default=False)
    ] = None,
    work: Folder = None,
    events: Annotated[Path | None, typer.Option(help="Events as JSON lines. Default: WORK/events.jsonl.")] = None,
    as_json: Json = False,
) -> None:
    """Train an adapter from recordings and publish it; a running service serves it without a restart.

    A run that was cut off goes on from its checkpoint when the same command is given again.
    """
    given = {
        "weights": weights, "preset": preset, "epochs": epochs, "validation": validation, "prompt": prompt,
        "task": task,
        "dora": dora or None, "eva": eva or None, "include_audio_tower": include_audio_tower or None,
        "lora_plus": lora_plus, "rank": rank, "hidden": hidden, "seed": seed,
        "push_to_hub": push_to_hub, "audio_roots": audio_root, "also": also, "start": start,
    }  # fmt: skip
    from training.data.decoding import start_decoders

    start_decoders()  # while the libraries of this process load
    from training.events import Events, json_lines, tensorboard
    from training.workers import launched

    folder = work or work_folder(data, name or "check")
    told = Events()
    trains = not (check or dry_run)
    rank, _ = launched()  # the first process writes for all
    with _reported(told, as_json):
        if trains and not name:
            raise BadRequest("Name the adapter: --name my-adapter.")
        if rank == 0 and (events or trains):
            told.listeners.append(json_lines(events or folder / "events.jsonl"))
        if rank == 0 and trains:
            told.listeners.append(tensorboard(folder / "tensorboard"))
        options = options_of(data, name or "check", method, given, settings, allow)
        run = partial(_train, options, settings_of(model=model, device=device, adapters=registry), folder, told)
        run(check, dry_run, as_json)


@app.command("compare-methods")
def compare_methods(
    data: Annotated[str | None, typer.Argument(help="Data for all methods; default: telephone tones.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the table, the JSON and the plots.")] = Path("runs/comparison"),
    dimensions_only: Annotated[
        str | None, typer.Option(help="Only count, at these dimensions: a folder, or a model such as 7b.")
    ] = None,
    epochs: Annotated[float, typer.Option(help="Of LoRA and projector.")] = 6.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of the answers that are judged.")] = 128,
    model: Model = None,
    device: Device = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Train LoRA, projector and head on the same data and report what each costs, changes and leaves intact."""
    with _reported(as_json=as_json):
        from training.dimensions import dimensions, write_dimensions
        from training.overwriting import check_unused
        from training.reports.compare import compare, write_comparison
        from training.reports.console import err
        from training.reports.console import out as shown

        if dimensions_only:
            check_unused([out / "dimensions.md", out / "dimensions.json"], force)
            text, file = write_dimensions(dimensions(dimensions_only), out), out / "dimensions.json"
        else:
            settings = settings_of(model=model, device=device)
            found = compare(data, out, settings, epochs, max_new_tokens, err, force=force)
            text, file = write_comparison(found, out), out / "comparison.json"
        shown.print(file.read_text(encoding="utf-8") if as_json else text, soft_wrap=True, markup=False)
        err.print(f"[green]✓[/green] written to {out}")


@app.command("sample-data")
def sample_data(
    folder: Annotated[Path, typer.Argument(help="Where it is written.", show_default=False)],
    rows: Annotated[int, typer.Option(min=2, help="Recordings.")] = 240,
    seed: int = 0,
    force: Force = False,
) -> None:
    """Write a data set to try training on: what a telephone line's tones mean."""
    from training.sample_data import write

    try:
        typer.echo(write(folder, rows, seed=seed, force=force))
    except (OvertoneError, OSError) as caught:  # not `_reported`, which imports the trainer: seconds
        typer.secho(f"error: {path_error(caught) if isinstance(caught, OSError) else caught}", fg="red", err=True)
        raise typer.Exit(1) from None


@app.command()
def bench(
    model: Model = None,
    random_weights: Annotated[str | None, typer.Option(help="Random weights at these dimensions: 7b.")] = None,
    device: Device = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.", show_default=False)] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of each clip.")] = 5.0,
    batch: Annotated[int | None, typer.Option(min=1, help="Clips of a step. Default: 160 s of audio, 8 to 32.")] = None,
    steps: Annotated[int, typer.Option(min=2, help="Steps measured.")] = 6,
    as_json: Json = False,
) -> None:
    """Training speed beside a plain loop of transformers and PEFT, on the same weights and clips."""
    with _reported(as_json=as_json):
        from training.bench import measure, table_of
        from training.reports.console import out as shown
        from training.workers import launched

        found = measure(settings_of(model=model, device=device, dtype=dtype), random_weights, seconds, batch, steps)
        if launched()[0]:
            return
        if as_json:
            print(json.dumps([asdict(one) for one in found], indent=2))
        else:
            shown.print(table_of(found))


def work_folder(data: str, name: str) -> Path:
    """The usual folder of a run: `runs/NAME`; one beside it where the data set is that folder, which stays as it is."""
    folder = Path("runs") / name
    is_data = Path(data).resolve() == folder.resolve()
    return folder.with_name(f"{name}-run") if is_data else folder


def options_of(
    data: str, name: str, method: str, given: dict[str, Any], settings: list[str], allow: str
) -> "TrainOptions":
    """The run's options. Raises BadRequest with every wrong one."""
    from pydantic import ValidationError

    from training.options import TrainOptions

    values = {key: value for key, value in given.items() if value is not None}
    for one in settings:
        key, equals, value = one.partition("=")
        if not equals:
            raise BadRequest(f"--set {one}: write key=value.")
        values[ALIASES.get(key, key)] = value
    values["allow"] = tuple(code for code in allow.split(",") if code)
    try:
        return TrainOptions.model_validate({**values, "data": data, "name": name, "method": method})
    except ValidationError as error:
        reasons = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        known = ", ".join(TrainOptions.model_fields)
        raise BadRequest(f"An option is wrong: {'; '.join(reasons)}. There are: {known}.") from None


def settings_of(**overrides: Any) -> "Settings":
    """The environment's settings with those options that were given; unknown variables are named on stderr.

    Raises BadRequest.
    """
    from app.settings import read_settings, unknown_variables

    for sentence in unknown_variables():
        typer.secho(f"note: {sentence}", fg="yellow", err=True)
    return read_settings(**overrides)


def _train(
    options: "TrainOptions",
    settings: "Settings",
    work: Path,
    told: "Events",
    check: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    from training.estimate import estimate
    from training.options import Places
    from training.reports.console import Display, err, out, show_outcome
    from training.run import Run

    with Display(options.allow) as display:
        run = Run(options, Places(settings.adapters, work), settings, told, display.counted)
        if run.workers.first:
            told.listeners.append(display.event)
        else:
            err.quiet = out.quiet = True
        _stop_on_signals(run)
        if check:
            report = run.check()
            err.print("[green]✓[/green] This data can be trained on.")
            if as_json:
                out.print_json(data=report.to_dict())
        elif dry_run:
            run.check()
            found = asdict(estimate(run)) if options.method != "head" else None  # a head takes seconds
            told.emit("checked", estimate=found)
            out.print_json(data=found)
        else:
            outcome = run.run()
            if outcome and as_json:
                out.print_json(data=outcome.told())
            elif outcome:
                show_outcome(outcome, str(settings.adapters))
        run.workers.leave()


def _stop_on_signals(run: "Run") -> None:
    """SIGTERM and Ctrl-C end the run after its step, with a checkpoint; a second one at once."""

    def stop(number: int, _: FrameType | None) -> None:
        run.cancel(128 + number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


@contextmanager
def _reported(told: "Events | None" = None, as_json: bool = False) -> Iterator[None]:
    """Errors in words, as an event and as an exit code: 2 for a refusal of data or options, 1 for a failure.

    With ``as_json`` also on stdout, in the shape of `overtone`'s other commands.
    """
    from training.trainer import Cancelled
    from training.workers import launched

    rank, count = launched()
    who = f" (process {rank + 1} of {count})" if rank else ""
    try:
        yield
    except Cancelled as stopped:
        if rank == 0:
            typer.echo("Stopped. The same command goes on from the last checkpoint.", err=True)
        raise typer.Exit(stopped.code) from None
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] in ("app", "training"):
            raise
        typer.secho(f"error: training needs {missing.name}: pip install 'overtone[train]'", fg="red", err=True)
        raise typer.Exit(1) from None
    except (OvertoneError, OSError) as caught:
        error = path_error(caught) if isinstance(caught, OSError) else caught
        problems = error.problems if isinstance(error, AdapterRejected | DatasetError) else []
        if told:
            with suppress(OSError):  # where the events cannot be written, that is the error
                told.emit("error", message=str(error), problems=problems, code=error.code)
        if as_json and rank == 0:
            facts = {"code": error.code, "status": error.status, "message": str(error)}
            print(json.dumps({"error": facts | ({"problems": problems} if problems else {})}, indent=2))
        typer.secho(f"error{who}: {error}", fg="red", err=True)
        raise typer.Exit(REFUSED if isinstance(error, BadRequest) else 1) from None
