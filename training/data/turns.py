"""Conversations in the shapes that trainers write them, as turns with the recordings that they name."""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from training.data.encodings import likely_encoding
from training.data.fields import LEARNED, TURN_REFUSED, as_flag, filled, normalised
from training.data.records import BadRow, shown
from training.data.rows import PLACEHOLDER, Role, Sound, Turn

CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>")  # the form of control tokens; the renderer refuses others
OTHER_MEDIA = re.compile(r"<(image|video|bbox|ref-object)>")  # placeholders of trainers for other media

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
}  # fmt: skip
_IDLE = {"role", "from", "content", "value", "id", "name", "timestamp", *LEARNED}
_TYPES_OF_SOUND = {"audio", "input_audio", "audio_url"}
_TYPES_OF_TEXT = {"text", "input_text", "output_text"}

Named = list[object]  # for each placeholder what its item names; None: the next of `audios`


def turns_of(messages: object, unknown: set[str]) -> tuple[list[Turn], Named]:
    """Turns of ``messages``, and what their placeholders stand for. Fields of no meaning go into ``unknown``.

    Raises BadRow for a role, an item or a mark that has no place in this training.
    """
    turns: list[Turn] = []
    named: Named = []
    for message in _listed(messages):
        if not isinstance(message, Mapping):
            raise BadRow("each turn must be an object with role and content")
        for role, fields in _spoken(normalised(message)):
            text, inside = _content(fields.get("content", fields.get("value")))
            turns.append(Turn(cast(Role, role), text_of(text, f"{role} turn"), _is_learned(fields, role)))
            named += inside
            unknown.update(f"messages.{name}" for name in fields.keys() - _IDLE if filled(fields[name]))
    return turns, named


def _listed(messages: object) -> Sequence[object]:
    """A list of turns: as it is, as JSON in a table's cell, or as a column of roles beside one of contents."""
    if isinstance(messages, str) and messages.lstrip().startswith("["):
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError):
            raise BadRow("messages must be a list of turns, and this is broken JSON") from None
    if isinstance(messages, Mapping):
        lists = [value for value in messages.values() if isinstance(value, list)]
        if len(lists) == len(messages) and len({len(one) for one in lists}) == 1:
            messages = [dict(zip(messages, values, strict=True)) for values in zip(*lists, strict=True)]
    if not isinstance(messages, list) or not messages:
        raise BadRow("messages must be a list of turns")
    return messages


def _spoken(fields: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """One turn, or the two of `{"human": …, "assistant": …}`."""
    for name, why in TURN_REFUSED.items():
        if filled(fields.get(name)):
            raise BadRow(f"a turn's {name} is filled: {why}")
    if fields.keys() & {"role", "from", "content", "value"}:
        role = fields.get("role", fields.get("from"))
        known = ROLES.get(role) if isinstance(role, str) else None
        if known is None:
            raise BadRow(f"the role {shown(role)} is none of system, user, assistant")
        yield known, fields
        return
    paired = [name for name in fields if name in ROLES]
    if not paired or len({ROLES[name] for name in paired}) < len(paired) or not fields.keys() <= {*ROLES, *LEARNED}:
        if "tool" in fields:
            raise BadRow("the role 'tool' is none of system, user, assistant")
        raise BadRow("the role None is none of system, user, assistant")
    marks = {name: fields[name] for name in LEARNED if name in fields}
    for name in sorted(paired, key=lambda one: ("system", "user", "assistant").index(ROLES[one])):
        yield ROLES[name], {"content": fields[name], **(marks if ROLES[name] == "assistant" else {})}


def _is_learned(fields: Mapping[str, object], role: str) -> bool:
    """True if an assistant's turn is supervised: `loss` of ms-swift, `weight` of OpenAI, `train` of axolotl."""
    marks = {name: fields[name] for name in LEARNED if filled(fields.get(name))}
    if role != "assistant":
        return True  # asked of assistants alone: their trainers overlook it elsewhere
    flags = {name: as_flag(value) for name, value in marks.items()}
    for name, flag in flags.items():
        if flag is None:
            raise BadRow(f"a turn's {name} must be true or false (1 or 0), not {shown(marks[name])}")
    if len(set(flags.values())) > 1:
        raise BadRow(f"a turn's {' and '.join(flags)} say opposite things")
    return next(iter(flags.values()), True) is not False


def _content(content: object) -> tuple[object, Named]:
    """A turn's text with placeholders, from plain text or a list of items."""
    if not isinstance(content, list):
        return content, [None] * (content.count(PLACEHOLDER) if isinstance(content, str) else 0)
    text, named = "", Named()
    for item in content:
        item = {"type": "text", "text": item} if isinstance(item, str) else item
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind in _TYPES_OF_SOUND:
            text += PLACEHOLDER
            named.append(_recording(item))
        elif kind in _TYPES_OF_TEXT and isinstance(item.get("text"), str):
            text += item["text"]
            named += [None] * item["text"].count(PLACEHOLDER)
        else:
            raise BadRow(f"an item of a turn's content is neither text nor audio: {shown(kind)}")
    return text, named


def _recording(item: Mapping[str, object]) -> object:
    """The recording that an item of audio names: a path, or the bytes themselves; None: the next of `audios`."""
    given = [item[name] for name in ("audio", "input_audio", "audio_url", "path", "url") if filled(item.get(name))]
    if len(given) > 1:
        raise BadRow("an item of audio names two recordings")
    value = given[0] if given else None
    if isinstance(value, Mapping):
        if "data" in value:
            return _decoded(value["data"])
        if isinstance(value.get("url"), str):
            value = value["url"]
    if isinstance(value, str) and value.startswith("data:"):
        return _decoded(value.partition(",")[2])
    return value


def _decoded(data: object) -> Sound:
    """Base64 as OpenAI's `input_audio` holds it."""
    try:
        if not isinstance(data, str):
            raise ValueError
        content = base64.b64decode("".join(data.split()), validate=True)
    except (ValueError, binascii.Error):
        raise BadRow("the data of input_audio is no base64") from None
    return Sound("input_audio", data=content)


def text_of(value: object, field: str) -> str:
    """The value if it is text that can be learned. Raises BadRow."""
    if not isinstance(value, str):
        raise BadRow(f"{field} must be text, not {shown(value)}")
    if token := CONTROL.search(value):
        raise BadRow(f"{field} holds {token[0]}, which steers the model itself")
    if token := OTHER_MEDIA.search(value):
        raise BadRow(f"{field} holds {token[0]}; only recordings can be trained on")
    if any("\ud800" <= character <= "\udfff" for character in value):
        likely = likely_encoding(value)
        raise BadRow(f"{field} holds broken characters{f' (it may be {likely})' if likely else ''}; save it as UTF-8")
    return value
