"""`overtone data label`: the model's answers to a folder of recordings, as a data set of drafts."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from app.cli.options import Adapters, ApiKey, Device, Json, Model, Server, settings_with
from app.cli.output import err, out, print_json, reported
from app.errors import BadRequest, NotFound, OvertoneError, on_disk

Answer = Callable[[Path], tuple[str, str | None]]  # of a recording, and the prompt that was asked


def label(
    folder: Annotated[Path, typer.Argument(help="Recordings, also in folders below.", show_default=False)],
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The question. Default: the adapter's own, or to transcribe.")
    ] = None,
    adapter: Annotated[str | None, typer.Option("--adapter", "-a", help="A name, `base`, or a mix.")] = None,
    to: Annotated[Path | None, typer.Option(help="The file to write. Default: FOLDER/data.jsonl.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer at most.")] = 256,
    server: Server = None,
    api_key: ApiKey = None,
    model: Model = None,
    device: Device = None,
    adapters: Adapters = None,
    as_json: Json = False,
) -> None:
    """Write the model's answers to a folder of recordings as a data set of drafts, to be corrected by hand.

    A file that is there is never overwritten. Recordings that cannot be read are named and left out.
    """
    with reported(as_json):
        target = to or folder / "data.jsonl"
        refuse_taken(target)
        files = _recordings(folder)
        asked = _Question(prompt, adapter, max_new_tokens)
        if server:
            answering = _by_server(server, api_key, asked)
        else:
            answering = _by_model(settings_with(model=model, device=device, adapters=adapters), asked)
        with answering as answer:
            lines, left_out = _drafts(files, target.parent, answer)
        if not lines:
            raise BadRequest(f"None of the {len(files)} recordings could be answered; nothing was written.")
        _write_new(target, lines)
        if as_json:
            print_json({"written": str(target), "rows": len(lines), "left_out": left_out})
        else:
            out.print(f"[green]✓[/green] {len(lines)} drafts in {target}; read and correct them before you train")


class _Question:
    def __init__(self, prompt: str | None, adapter: str | None, max_new_tokens: int) -> None:
        self.prompt, self.adapter, self.max_new_tokens = prompt, adapter, max_new_tokens


@contextmanager
def _by_server(url: str, api_key: str | None, asked: _Question) -> Iterator[Answer]:
    """Answers of a running server, each with the prompt that was sent."""
    from app.cli.client import Client

    fields = {"prompt": asked.prompt, "adapter": asked.adapter, "max_new_tokens": str(asked.max_new_tokens)}
    form = {name: value for name, value in fields.items() if value}
    with Client(url, api_key) as client:

        def answer(file: Path) -> tuple[str, str | None]:
            sent = {"audio": (file.name, file.read_bytes())}
            return str(client.call("POST", "/generate", data=form, files=sent)["text"]), asked.prompt

        yield answer


@contextmanager
def _by_model(settings: Any, asked: _Question) -> Iterator[Answer]:
    """Answers of the model, loaded here."""
    from app.cli.generate import opened_service
    from app.engine.sampling_params import SamplingParams
    from app.service import GenerationInput
    from app.service.decoding import read_audio
    from app.service.generation import Conversation, default_prompt

    with opened_service(settings, decoding=True) as service:
        weights = service.adapters.resolve(asked.adapter)
        prompt = asked.prompt or default_prompt(weights)
        sampling = SamplingParams(max_new_tokens=asked.max_new_tokens)

        def answer(file: Path) -> tuple[str, str | None]:
            _, clips = service.read_clips(read_audio(file), file.name)
            conversation = Conversation.single_turn([clips], prompt)
            return service.generate(GenerationInput(conversation, weights, sampling, fit=True)).text, prompt

        yield answer


def _drafts(files: list[Path], folder: Path, answer: Answer) -> tuple[list[str], list[str]]:
    """A line for each recording that could be answered, and the names of the others."""
    lines, left_out = [], []
    for number, file in enumerate(files, 1):
        name = os.path.relpath(file, folder)
        try:
            with err.status(f"{number} of {len(files)}: {name} …"):
                text, prompt = answer(file)
        except OvertoneError as error:
            if error.status >= 500:
                raise
            left_out.append(name)
            err.print(Text.assemble(("left out ", "yellow"), f"{name}: {error}"), soft_wrap=True)
            continue
        row = {"audio": name, **({"prompt": prompt} if prompt else {}), "response": text.strip()}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return lines, left_out


def _recordings(folder: Path) -> list[Path]:
    """Raises NotFound for no folder, BadRequest for one without recordings."""
    from app.audio.decode import SUFFIXES

    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}.")
    found = [file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
    shown = sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts))
    if not shown:
        raise BadRequest(f"{folder} holds no recordings ({', '.join(sorted(SUFFIXES)[:8])} …).")
    return shown


def refuse_taken(target: Path) -> None:
    """Raises BadRequest for a file that is there, and for a folder that is not."""
    if target.exists():
        raise BadRequest(f"{target} is there already and is not overwritten; move it away, or name another file.")
    if not target.parent.is_dir():
        raise BadRequest(f"There is no folder {target.parent} to write into.")


def _write_new(target: Path, lines: list[str]) -> None:
    """Raises BadRequest when the file has appeared meanwhile, StorageError."""
    try:
        with on_disk(f"The folder of {target}"), target.open("x", encoding="utf-8") as stream:
            stream.writelines(lines)
    except FileExistsError:
        refuse_taken(target)
