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
from app.logs import quiet_libraries

if TYPE_CHECKING:
    from app.audio.decode import Receipt
    from app.engine.request import Done, LoRAWeight
    from app.engine.sampling_params import SamplingParams
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

    The answer goes to stdout, receipts and timings to stderr.
    """
    with reported(as_json):
        files = audio or []
        if not files and not prompt:
            raise BadRequest("Name a recording, or ask in words with --prompt.")
        if files:
            from app.audio.forkserver import preload

            preload()  # while the libraries of this process and the model load

        from app.engine.sampling_params import SamplingParams
        from app.service.decoding import read_audio

        recordings = [read_audio(file) for file in files]
        sampling = SamplingParams(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=tuple(stop or ()),
        )
        settings = settings_with(model=model, device=device, dtype=dtype, adapters=adapters)
        with opened_service(settings, decoding=bool(files)) as service:
            names = [file.name for file in files]
            answer = _ask(service, recordings, names, prompt, system, adapter, sampling, quiet=as_json)
        if as_json:
            print_json(answer)
            return
        if answer["audio"]:
            err.print(receipt_table(answer["audio"], names))
        err.print(timings_table({name_of(answer): answer}))


@contextmanager
def opened_service(settings: "Settings", decoding: bool) -> Iterator["Service"]:
    """A service for one question, closed afterwards; ``decoding``: with a decoding process that answers.

    Raises ModelRejected when the model cannot be used.
    """
    from app.service import Service

    quiet_libraries()
    with err.status(f"Loading {Path(settings.model).name} …"):
        service = Service.open(settings)
    try:
        if decoding:
            service.wait_for_decoders()
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
    sampling: "SamplingParams",
    quiet: bool,
) -> dict[str, Any]:
    from app.engine.request import Done
    from app.service import GenerationInput
    from app.service.generation import Conversation, default_prompt

    adapters = service.adapters.resolve(adapter)
    decoded = [service.read_clips(data, name) for data, name in zip(recordings, names, strict=True)]
    conversation = Conversation.single_turn([clips for _, clips in decoded], prompt or default_prompt(adapters), system)
    for event in service.stream(GenerationInput(conversation, adapters, sampling)):
        if isinstance(event, Done):
            if not quiet:
                print(flush=True)
            return _answer(event, adapters, [receipt for receipt, _ in decoded])
        if not quiet:
            print(event.text, end="", flush=True)
    raise AssertionError("a stream ends with Done")


def _answer(done: "Done", adapters: "tuple[LoRAWeight, ...]", receipts: "list[Receipt]") -> dict[str, Any]:
    """The answer in the shape of `POST /generate`."""
    return {
        "text": done.text,
        "adapter": _adapter(adapters),
        "finish_reason": done.finish_reason,
        "usage": {
            "prompt_tokens": done.prompt_tokens,
            "audio_tokens": done.audio_tokens,
            "completion_tokens": done.completion_tokens,
        },
        "audio": [asdict(receipt) for receipt in receipts],
        "timings_ms": {name: round(value, 2) for name, value in asdict(done.timings).items()},
    }


def _adapter(adapters: "tuple[LoRAWeight, ...]") -> dict[str, Any]:
    if not adapters:
        return {"name": "base"}
    if len(adapters) == 1 and adapters[0].weight == 1.0:
        return {"name": adapters[0].adapter.name, "version": adapters[0].adapter.version}
    mix = [{"name": one.adapter.name, "version": one.adapter.version, "weight": one.weight} for one in adapters]
    return {"name": ",".join(f"{one.adapter.name}:{one.weight:g}" for one in adapters), "mix": mix}
