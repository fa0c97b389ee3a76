"""One record of a dataset file, in any of the shapes that trainers write, as a row."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from training.data import fields as names
from training.data.cells import sound_of_cell
from training.data.fields import filled, normalised, one_of, refuse_other_trainings
from training.data.paths import find_recording
from training.data.records import BadRow, Record, Rules, shown
from training.data.rows import PLACEHOLDER, Row, Sound, Turn
from training.data.segments import Part, part_of
from training.data.turns import Named, text_of, turns_of

__all__ = ["BadRow", "Record", "Rules", "row_of"]

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:")
_READ = frozenset(
    (*names.AUDIO, *names.PROMPT, *names.RESPONSE, *names.SYSTEM, *names.MESSAGES, *names.REFUSED, *names.USUAL)
) | {names.INPUT, names.HISTORY, "label", "split", "corrected"}


def row_of(record: Record, rules: Rules) -> Row:
    """The row that a record says. Raises BadRow with the first thing that is wrong."""
    if isinstance(record.value, BadRow):
        raise record.value
    if not isinstance(record.value, Mapping):
        raise BadRow("is no object with named fields")
    fields = normalised(record.value)
    refuse_other_trainings(fields)
    part, unknown = part_of(fields), set[str]()
    audios = _audios(fields)
    label = _label(fields.get("label"))
    turns, named, asked = _conversation(fields, rules.prompt, audios, unknown)
    if not asked and not audios:
        raise BadRow(f"names no recording (one of the fields {', '.join(names.AUDIO)}){_found(fields)}")
    if not rules.head:
        label = _without_mark(label, fields.get("label"), turns)
    turns = _with_system(turns, fields)
    _check_order(turns, label is not None)
    sounds = [_sound(value, record.folder, rules.audio_roots) for value in _filled(named, audios)]
    _note(rules, fields, part, unknown)
    turns, sounds = _learned_alone(turns, sounds, label is not None)
    split = _split(fields.get("split"))
    if split and record.split and split != record.split:
        raise BadRow(f"its split is {split}, and it stands in a file or folder of {record.split}")
    split = record.split or split
    corrected = names.as_flag(fields.get("corrected")) is True
    return Row(tuple(turns), tuple(_cut(sounds, part)), label, record.place, split, corrected)


def _conversation(
    fields: Mapping[str, object], default_prompt: str, audios: Sequence[object], unknown: set[str]
) -> tuple[list[Turn], Named, bool]:
    """Turns, what their placeholders stand for, and whether the row is a chat."""
    _, messages = one_of(fields, names.MESSAGES, "conversation")
    prompt, completion = fields.get("prompt"), fields.get("completion")
    if filled(messages):
        turns, named = turns_of(messages, unknown)
        _refuse_beside(fields, turns)
        return turns, named, True
    if isinstance(prompt, list) or isinstance(completion, list):  # TRL: the completion alone is learned
        if not isinstance(prompt, list) or not isinstance(completion, list):
            raise BadRow("prompt and completion must both be text, or both be lists of turns")
        given, named = turns_of(prompt, unknown)
        answers, inside = turns_of(completion, unknown)
        _refuse_beside({name: value for name, value in fields.items() if name not in ("prompt", "completion")}, given)
        return [*(replace(turn, learned=False) for turn in given), *answers], named + inside, True
    turns = _short(fields, default_prompt, len(audios))
    return turns, [None] * sum(turn.text.count(PLACEHOLDER) for turn in turns), False


def _refuse_beside(fields: Mapping[str, object], turns: Sequence[Turn]) -> None:
    """A field for the short form beside a conversation says what a turn says, or is one too many."""
    said = {turn.text.replace(PLACEHOLDER, "").strip() for turn in turns}
    for name in (*names.PROMPT, *names.RESPONSE, names.INPUT, names.HISTORY):
        value = fields.get(name)
        repeats = isinstance(value, str) and value.replace(PLACEHOLDER, "").strip() in said
        if filled(value) and not repeats:
            raise BadRow(f"messages and {name} are both filled, and nothing says which is to be learned; keep one")


def _short(fields: Mapping[str, object], default_prompt: str, count: int) -> list[Turn]:
    """`audio`, `prompt` and `response`, after the turns of `history`; a prompt without placeholders gets them."""
    turns = _history(fields.get(names.HISTORY))
    prompt = _prompt(fields) or default_prompt
    if not any(PLACEHOLDER in text for text in (prompt, *(turn.text for turn in turns))):
        if turns and count:
            raise BadRow(f"history is filled and no turn holds {PLACEHOLDER}; write it where the recording belongs")
        prompt = PLACEHOLDER * count + prompt
    turns.append(Turn("user", prompt))
    _, response = one_of(fields, names.RESPONSE, "answer")
    if response is not None:
        turns.append(Turn("assistant", text_of(response, "response")))
    elif not filled(fields.get("label")):
        raise BadRow(f"has no answer (one of the fields {', '.join(names.RESPONSE)}, or label){_found(fields)}")
    return turns


def _prompt(fields: Mapping[str, object]) -> str:
    """The question: Alpaca's `instruction` and `input` are joined by a line's end, as its trainers do."""
    name, prompt = one_of(fields, names.PROMPT, "prompt")
    more = fields.get(names.INPUT)
    if filled(prompt) and filled(more) and name not in ("instruction", "prompt"):
        raise BadRow(f"{name} and input are both filled, and nothing says which is the prompt; keep one")
    return "\n".join(text_of(value, "prompt") for value in (prompt, more) if filled(value))


def _history(value: object) -> list[Turn]:
    """Pairs of question and answer; those answers are learned too, as in ms-swift and LLaMA-Factory."""
    if isinstance(value, str) and filled(value):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadRow("history must be a list of pairs of question and answer") from None
    if not filled(value):
        return []
    turns = []
    for pair in value if isinstance(value, list) else [None]:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadRow("history must be a list of pairs of question and answer")
        turns += [Turn("user", text_of(pair[0], "history")), Turn("assistant", text_of(pair[1], "history"))]
    return turns


def _audios(fields: Mapping[str, object]) -> list[object]:
    """The recordings that the row names. An embedded one counts before the path that it came from."""
    given = {name: fields[name] for name in names.AUDIO if filled(fields.get(name))}
    inside = {name: value for name, value in given.items() if not isinstance(value, str | list)}
    value: object = _longest(given) if not inside else None
    if value is None:
        _, value = one_of(inside or given, names.AUDIO, "recording")
    if isinstance(value, str) and value.startswith("["):  # a list in a table's cell
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return [value]
    return [] if value is None else value if isinstance(value, list) else [value]


def _longest(given: Mapping[str, object]) -> str | None:
    """The fullest of several paths where the others are its end, as `a.wav` is of `clips/a.wav`."""
    paths = [value for value in given.values() if isinstance(value, str)]
    if len(paths) < 2 or len(paths) < len(given):
        return None
    longest = max(paths, key=len)
    return longest if all(longest == path or longest.endswith(f"/{path}") for path in paths) else None


def _with_system(turns: list[Turn], fields: Mapping[str, object]) -> list[Turn]:
    _, value = one_of(fields, names.SYSTEM, "system turn")
    if not filled(value):
        return turns
    system = Turn("system", text_of(value, "system"))
    if turns[0].role == "system":
        if turns[0].text != system.text:
            raise BadRow("the field system and the first turn are both system turns; keep one")
        return turns
    return [system, *turns]


def _check_order(turns: Sequence[Turn], labelled: bool) -> None:
    """System first, then user and assistant by turns; the assistant last, except in rows with a label."""
    if any(PLACEHOLDER in turn.text for turn in turns if turn.role != "user"):
        raise BadRow(f"{PLACEHOLDER} stands outside the user's turns")
    spoken = [turn.role for turn in turns[turns[0].role == "system" :]]
    if any(role != ("user", "assistant")[index % 2] for index, role in enumerate(spoken)) or not spoken:
        raise BadRow("turns must go user, assistant, user, assistant …, after at most one system turn")
    if spoken[-1] != "assistant" and not labelled:
        raise BadRow("the last turn is not the assistant's")


def _learned_alone(turns: list[Turn], sounds: list[Sound], labelled: bool) -> tuple[list[Turn], list[Sound]]:
    """Without the last turns that are not learned: nothing that is learned comes after them."""
    if not any(turn.role == "assistant" for turn in turns):
        return turns, sounds
    if not any(turn.role == "assistant" and turn.learned for turn in turns):
        if labelled:
            return turns, sounds
        raise BadRow("all its answers are marked as not to be learned; remove the row")
    while not turns[-1].learned:
        placed = turns[-2].text.count(PLACEHOLDER)
        turns, sounds = turns[:-2], sounds[: len(sounds) - placed]
    return turns, sounds


def _filled(named: Sequence[object], audios: Sequence[object]) -> list[object]:
    """The recording of each placeholder, in order."""
    if sum(value is None for value in named) != len(audios):
        raise BadRow(f"holds {len(named)} {PLACEHOLDER} for {len(audios)} recordings in the audio field")
    rest = iter(audios)
    return [next(rest) if value is None else value for value in named]


def _sound(value: object, folder: Path, roots: Sequence[Path]) -> Sound:
    if isinstance(value, Mapping):
        value = sound_of_cell(value)
    if isinstance(value, Sound):
        return value
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"audio must be the path of a file, not {shown(value)}")
    if URL.match(value):
        raise BadRow(f"the recording {shown(value)} is a URL; download it and give the file's path")
    return Sound(value, find_recording(value, folder, roots))


def _cut(sounds: Sequence[Sound], part: Part) -> list[Sound]:
    """The recordings, with the part of the only one that is meant."""
    if part.start is None and part.end is None:
        return [replace(sound, stated=part.stated) for sound in sounds] if len(sounds) == 1 else list(sounds)
    if len(sounds) != 1:
        raise BadRow(f"start and end name a part of one recording, and here are {len(sounds)}")
    return [replace(sounds[0], start=part.start, end=part.end)]


def _label(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return text_of(value, "label").strip() or None if value is not None else None
    if isinstance(value, int):
        return str(value)
    raise BadRow(f"label must be a word or a number, not {shown(value)}")


def _without_mark(label: str | None, value: object, turns: Sequence[Turn]) -> str | None:
    """The label; none where it is KTO's mark of an answer, which must be true."""
    answered = any(turn.role == "assistant" for turn in turns)
    if not answered or not (isinstance(value, bool) or (label or "").casefold() in ("true", "false")):
        return label
    if names.as_flag(value) is False:
        raise BadRow("label is false, KTO's mark of an unwanted answer: it is not learned; remove the row")
    return None


def _split(value: object) -> str | None:
    if not filled(value):
        return None
    known = names.SPLITS.get(value.strip().casefold()) if isinstance(value, str) else None
    if known is None:
        raise BadRow(f"split {shown(value)} is none of train, validation, test")
    return known


def _note(rules: Rules, fields: Mapping[str, object], part: Part, unknown: set[str]) -> None:
    """Keep the names of fields that are filled and say nothing here."""
    if part.start is not None or part.end is not None:
        rules.notes.remark(f"{', '.join(sorted(part.names))} name the part of its recording that a row means")
    rest = {name for name, value in fields.items() if filled(value)} - _READ - part.names
    if str(fields.get("", "")).strip().isdecimal():
        rest -= {""}  # the row numbers that pandas writes
    rules.notes.idle |= {name for name in rest if name in names.IDLE}
    rules.notes.unknown.update({name or "(no name)" for name in rest if name not in names.IDLE} | unknown)


def _found(fields: Mapping[str, object]) -> str:
    """The fields that are there, for an error about those that are not."""
    listed = ", ".join(name for name in list(fields)[:8])
    return f"; its fields are {listed}" if listed else ""
