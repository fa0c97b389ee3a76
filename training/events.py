"""Events of a run while it works, for JSON lines in a file, a TensorBoard folder and other listeners."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from app.errors import OvertoneError

Event = dict[str, Any]
Listener = Callable[[Event], None]


class TrainingFailed(OvertoneError):
    """The run cannot go on; the message says what to change."""

    code = "training_failed"


class Events:
    """Hands every event to all listeners.

    Kinds: gate, checked, exam, start, step, eval, watch, memory, pushed, done, error.
    """

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self.listeners = list(listeners)

    def emit(self, kind: str, **fields: Any) -> None:
        event = {"event": kind, "time": round(time.time(), 3), **fields}
        for listener in self.listeners:
            listener(event)


def json_lines(file: Path) -> Listener:
    """Append each event to ``file`` as one line, at once. Raises OSError where it cannot be written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.open("a").close()

    def write(event: Event) -> None:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(event, ensure_ascii=False) + "\n")

    return write


def tensorboard(folder: Path) -> Listener:
    """Losses and rates as TensorBoard scalars."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def write(event: Event) -> None:
        if event["event"] == "step":
            for name in {"loss", "lr", "tokens_per_second"} & event.keys():
                writer.add_scalar(f"train/{name}", event[name], event["step"])
        elif event["event"] == "eval":
            writer.add_scalar("validation/loss", event["loss"], event["step"])
        if event["event"] != "step":
            writer.flush()

    return write
