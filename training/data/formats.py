"""One record of a dataset file, in any of the shapes that trainers write, as a row."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

from training.data.rows import PLACEHOLDER, Role, Row, Sound, Turn

# Names of one field; the first that has a value counts
AUDIO = ("audio", "audios", "audio_path", "file_name", "path", "file")
PROMPT = ("prompt", "instruction", "query", "question")
RESPONSE = ("response", "text", "transcript", "transcription", "sentence", "output", "answer")
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}
CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>")  # all control tokens of Qwen2-Audio look like this
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:")


class BadRow(Exception):
    """Why a record is no row; words that follow its place."""


class Record(NamedTuple):
    """``value``: what was read, or why it could not be. ``folder``: where relative audio paths begin."""

    place: str
    value: object
    folder: Path
    split: str | None = None


@dataclass(frozen=True)
class Rules:
    """``prompt``: for rows without one. ``audio_roots``: recordings must lie under one of them; none: anywhere."""

    prompt: str
    audio_roots: Sequence[Path] = ()


def row_of(record: Record, rules: Rules) -> Row:
    """The row that a record says. Raises BadRow with the first thing that is wrong."""
    if isinstance(record.value, BadRow):
        raise record.value
    if not isinstance(record.value, Mapping):
        raise BadRow("is no object with named fields")
    fields: Mapping[str, object] = record.value
    label = _label(fields.get("label"))
    system = _text(fields.get("system") or "", "system")
    messages = next((fields[name] for name in ("messages", "conversations") if fields.get(name) is not None), None)
    audios = _list(_first(fields, AUDIO))
    turns, named = _short(fields, rules.prompt, len(audios)) if messages is None else _turns(messages)
    if messages is None and not audios:
        raise BadRow(f"names no recording (one of the fields {', '.join(AUDIO)})")
    if system:
        turns.insert(0, Turn("system", system))
    _check_order(turns, label is not None)
    sounds = tuple(_sound(value, record.folder, rules.audio_roots) for value in _filled(named, audios))
    return Row(tuple(turns), sounds, label, record.place, record.split or _split(fields.get("split")))


def _short(fields: Mapping[str, object], default_prompt: str, count: int) -> tuple[list[Turn], list[object]]:
    """`audio`, `prompt` and `response`; a prompt without placeholders gets them in front."""
    prompt = _text(_first(fields, PROMPT) or default_prompt, "prompt")
    if PLACEHOLDER not in prompt:
        prompt = PLACEHOLDER * count + prompt
    turns = [Turn("user", prompt)]
    response = _first(fields, RESPONSE)
    if response is not None:
        turns.append(Turn("assistant", _text(response, "response")))
    elif fields.get("label") is None:
        raise BadRow(f"has no answer (one of the fields {', '.join(RESPONSE)}, or label)")
    return turns, [None] * prompt.count(PLACEHOLDER)


def _turns(messages: object) -> tuple[list[Turn], list[object]]:
    """The turns, and for each placeholder the recording that its item names; None: the next of `audios`."""
    if not isinstance(messages, list) or not messages:
        raise BadRow("messages must be a list of turns")
    turns, named = [], []
    for message in messages:
        if not isinstance(message, Mapping):
            raise BadRow("each turn must be an object with role and content")
        role = message.get("role", message.get("from"))
        known = ROLES.get(role) if isinstance(role, str) else None
        if known is None:
            raise BadRow(f"the role {_shown(role)} is none of system, user, assistant")
        text, inside = _content(message.get("content", message.get("value")))
        turns.append(Turn(cast(Role, known), _text(text, f"{known} turn")))
        named += inside
    return turns, named


def _content(content: object) -> tuple[object, list[object]]:
    """A turn's text with placeholders, from plain text or a list of items."""
    if not isinstance(content, list):
        return content, [None] * (content.count(PLACEHOLDER) if isinstance(content, str) else 0)
    text, named = "", list[object]()
    for item in content:
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind == "audio":
            text += PLACEHOLDER
            named.append(_first(item, ("audio", "audio_url", "path")))
        elif kind == "text" and isinstance(item.get("text"), str):
            text += item["text"]
            named += [None] * item["text"].count(PLACEHOLDER)
        else:
            raise BadRow("an item of a turn's content is neither text nor audio")
    return text, named


def _check_order(turns: Sequence[Turn], labelled: bool) -> None:
    """System first, then user and assistant by turns; the assistant last, except in rows with a label."""
    if any(PLACEHOLDER in turn.text for turn in turns if turn.role != "user"):
        raise BadRow(f"{PLACEHOLDER} stands outside the user's turns")
    spoken = [turn.role for turn in turns[turns[0].role == "system" :]]
    if any(role != ("user", "assistant")[index % 2] for index, role in enumerate(spoken)) or not spoken:
        raise BadRow("turns must go user, assistant, user, assistant …, after at most one system turn")
    if spoken[-1] != "assistant" and not labelled:
        raise BadRow("the last turn is not the assistant's")


def _filled(named: Sequence[object], audios: Sequence[object]) -> list[object]:
    """The recording of each placeholder, in order."""
    if sum(value is None for value in named) != len(audios):
        raise BadRow(f"holds {len(named)} {PLACEHOLDER} for {len(audios)} recordings in the audio field")
    rest = iter(audios)
    return [next(rest) if value is None else value for value in named]


def _sound(value: object, folder: Path, roots: Sequence[Path]) -> Sound:
    if isinstance(value, Sound):
        return value
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"audio must be the path of a file, not {_shown(value)}")
    if URL.match(value):
        raise BadRow(f"the recording {_shown(value)} is a URL; download it and give the file's path")
    path = folder / value
    try:
        real = path.resolve()
        if roots and not any(real.is_relative_to(root.resolve()) for root in roots):
            raise BadRow(f"the recording {_shown(value)} lies outside the data set")
        found = path.is_file()
    except (OSError, ValueError, RuntimeError):  # names that are too long, null bytes, loops of links
        found = False
    if not found:
        raise BadRow(f"there is no recording {_shown(value)}")
    return Sound(value, path)


def _label(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value if value is None else _text(value, "label").strip()
    if isinstance(value, int):
        return str(value)
    raise BadRow(f"label must be a word or a number, not {_shown(value)}")


def _split(value: object) -> str | None:
    if value is None or value == "":
        return None
    known = SPLITS.get(value.lower()) if isinstance(value, str) else None
    if known is None:
        raise BadRow(f"split {_shown(value)} is none of train, validation, test")
    return known


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise BadRow(f"{field} must be text, not {_shown(value)}")
    if token := CONTROL.search(value):
        raise BadRow(f"{field} holds {token[0]}, which steers the model itself")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise BadRow(f"{field} holds broken characters; save it as UTF-8")
    return value


def _first(fields: Mapping[str, object], names: Sequence[str]) -> object:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _list(value: object) -> list[object]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _shown(value: object) -> str:
    """A value as an error names it: short, and printable."""
    words = ascii(value) if not isinstance(value, str) or not value.isprintable() else repr(value)
    return words if len(words) <= 80 else f"{words[:80]}…"
