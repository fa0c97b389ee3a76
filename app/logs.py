"""Logs on stderr: lines for people, or one JSON object a line for machines. Each carries its request's id."""

import json
import logging
import warnings
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

# of the request that is being answered; copied into worker threads with the rest of the context
REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "request_id", "taskName"}


def configure(style: Literal["text", "json"]) -> None:
    """Set up the root logger; for processes that serve, once."""
    handler = logging.StreamHandler()
    handler.addFilter(_with_request_id)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for loud in ("httpx", "httpcore"):  # a line for each request to the Hub
        logging.getLogger(loud).setLevel(logging.WARNING)


def hide_progress_bars() -> None:
    """Have transformers load weights without a progress bar, which would break a log's lines."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def quiet_libraries() -> None:
    """Keep libraries' progress bars, warnings and FutureWarnings out of what a command prints."""
    from transformers.utils import logging as transformers_logging

    hide_progress_bars()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)


def printable(text: str) -> str:
    """The text with control characters, line ends and what steers a terminal written as escapes, such as \\x1b."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class TextFormatter(logging.Formatter):
    """`2026-11-24 10:15:00,123 INFO overtone.access [5f0c6a1d9d3e4c5b]: …`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s%(bracketed)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        identity = getattr(record, "request_id", None)
        record.bracketed = f" [{identity}]" if identity else ""
        # line by line: a message is one line, and those of a traceback are indented, so that nothing passes for a line
        text = super().format(record)
        first, *trace = text.split("\n") if record.exc_info or record.stack_info else [text]
        return "\n".join([printable(first), *(f"  {printable(line)}" for line in trace)])


class JsonFormatter(logging.Formatter):
    """`time` (UTC), `level`, `logger`, `message`, `request_id`, whatever was passed as `extra`, and `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        record_fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": getattr(record, "request_id", None),
            **{name: value for name, value in record.__dict__.items() if name not in _STANDARD},
        }
        if record.exc_info:
            record_fields["exception"] = self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in record_fields.items() if value is not None}, default=str)


def _with_request_id(record: logging.LogRecord) -> bool:
    if not hasattr(record, "request_id"):
        record.request_id = REQUEST_ID.get()
    return True
