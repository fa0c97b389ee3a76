"""`overtone generate`: one answer, without a server."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import Adapters, Device, Dtype, Json, Model, settings_with
from app.cli.output import err, name_of, print_json, receipt_table, reported, timings_table
from app.errors import BadRequest

if TYPE_CHECKING:
    from app.audio.decode import Receipt
    from app.engine.request import Done, Sampling, Share
    from app.service import Service
    from app.settings import Settings


def generate(
    audio: Annotated[list[Path] | None, typer.Argument(help="Recordings, in order.", show_default=False)] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The question. Default: the adapter's own, or to transcribe.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system message.", show_default=False)] = None,
    adapter: Annotated[
        str | None, typer.Option("--adapter", "-a", help="A name, `base`, or a mix such as a:0.7,b:0.3.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of the answer at most.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, max=10.0, help="0 always takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0001, max=1.0, help="Likeliest tokens up to this share.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="This many likeliest tokens; 0 for all.")] = 0,
    repetition_penalty: Annotated[float, typer.Option(min=0.01, max=10.0, help="Above 1: repeats less.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same answer.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    adapters: Adapters = None,
    as_json: Json = False,
) -> None:
    """Answer a question about recordings, without a server.

    The answer goes to stdout, what was heard and how long it took to stderr.
    """
    with reported(as_json):
        files = audio or []
        if not files and not prompt:
            raise BadRequest("Name a recording, or ask in words with --prompt.")
        from app.engine.request import Sampling
        from app.service import read_audio

        recordings = [read_audio(file) for file in files]
        sampling = Sampling(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=tuple(stop or ()),
        )
        settings = settings_with(model=model, device=device, dtype=dtype, adapters=adapters)
        with _service(settings) as service:
            names = [file.name for file in files]
            answer = _ask(service, recordings, names, prompt, system, adapter, sampling, quiet=as_json)
        if as_json:
            print_json(answer)
            return
        if answer["audio"]:
            err.print(receipt_table(answer["audio"], names))
        err.print(timings_table({name_of(answer): answer}))


@contextmanager
def _service(settings: "Settings") -> Iterator["Service"]:
    """A service for one question, closed afterwards. Raises ModelRejected when the model cannot be used."""
    from transformers.utils import logging

    from app.service import Service

    logging.disable_progress_bar()
    with err.status(f"Loading {Path(settings.model).name} …"):
        service = Service.open(settings)
    try:
        yield service
    finally:
        service.close()


def _ask(
    service: "Service",
    recordings: list[bytes],
    names: list[str],
    prompt: str | None,
    system: str | None,
    adapter: str | None,
    sampling: "Sampling",
    quiet: bool,
) -> dict[str, Any]:
    from app.engine.request import Done
    from app.service import default_prompt, user_message

    shares = service.shares(adapter)
    heard = [service.hear(data, name) for data, name in zip(recordings, names, strict=True)]
    messages = user_message([clips for _, clips in heard], prompt or default_prompt(shares), system)
    for event in service.stream(messages, shares, sampling):
        if isinstance(event, Done):
            if not quiet:
                print(flush=True)
            return _answer(event, shares, [receipt for receipt, _ in heard])
        if not quiet:
            print(event.text, end="", flush=True)
    raise AssertionError("a stream ends with Done")


def _answer(done: "Done", shares: "tuple[Share, ...]", receipts: "list[Receipt]") -> dict[str, Any]:
    """The answer in the shape of `POST /generate`."""
    return {
        "text": done.text,
        "adapter": _adapter(shares),
        "finish_reason": done.finish_reason,
        "usage": {
            "prompt_tokens": done.prompt_tokens,
            "audio_tokens": done.audio_tokens,
            "completion_tokens": done.completion_tokens,
        },
        "audio": [asdict(receipt) for receipt in receipts],
        "timings_ms": {name: round(value, 2) for name, value in asdict(done.timings).items()},
    }


def _adapter(shares: "tuple[Share, ...]") -> dict[str, Any]:
    if not shares:
        return {"name": "base"}
    if len(shares) == 1 and shares[0].weight == 1.0:
        return {"name": shares[0].adapter.name, "version": shares[0].adapter.version}
    mix = [{"name": one.adapter.name, "version": one.adapter.version, "weight": one.weight} for one in shares]
    return {"name": ",".join(f"{one.adapter.name}:{one.weight:g}" for one in shares), "mix": mix}
