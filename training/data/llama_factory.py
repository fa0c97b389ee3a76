"""LLaMA-Factory's `dataset_info.json`: what the columns and tags of its data files mean."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from app.errors import DatasetError
from training.data.records import BadRow, Notes, shown

FILE = "dataset_info.json"
# Its columns by what they mean, and what that is called here
_COLUMNS = {
    "prompt": "instruction", "query": "input", "response": "output", "history": "history", "system": "system",
    "messages": "messages", "audios": "audios", "images": "images", "videos": "videos", "tools": "tools",
    "chosen": "chosen", "rejected": "rejected", "kto_tag": "kto_tag",
}  # fmt: skip
_USUAL = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    "sharegpt": {"messages": "conversations"},
}
_TAGS = {
    "role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt", "system_tag": "system",
}  # fmt: skip
_ROLES = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}


@dataclass(frozen=True)
class Entry:
    """One data set of the list. ``columns``: by their names in the file, what they are called here."""

    columns: Mapping[str, str]
    tags: Mapping[str, str] = field(default_factory=dict)

    def translated(self, value: object) -> object:
        """A row under the names of this project; columns that the entry does not name keep theirs.

        Raises BadRow where that leaves two columns under one name.
        """
        if not isinstance(value, Mapping):
            return value
        renamed: dict[str, object] = {}
        for name, cell in value.items():
            plain = self.columns.get(str(name), str(name))
            if plain in renamed:
                raise BadRow(f"has two columns for {plain} by its {FILE}")
            renamed[plain] = self._turns(cell) if plain == "messages" else cell
        return renamed

    def _turns(self, messages: object) -> object:
        if not isinstance(messages, list) or not all(isinstance(turn, Mapping) for turn in messages):
            return messages
        role, content = self.tags["role_tag"], self.tags["content_tag"]
        roles = {self.tags[tag]: plain for tag, plain in _ROLES.items()}
        turns = []
        for turn in messages:
            rest = {name: cell for name, cell in turn.items() if name not in (role, content)}
            said = turn.get(role)
            plain = roles.get(said, said) if isinstance(said, str) else said
            turns.append({**rest, "role": plain, "content": turn.get(content)})
        return turns


def entry_of(file: Path, notes: Notes) -> Entry | None:
    """The entry for the file in a `dataset_info.json` beside it; None without one. Raises DatasetError."""
    listed = _listed(file.parent)
    found = {name: entry for name, entry in listed.items() if _names(entry, file.name)}
    if not found:
        return None
    entries = {name: _entry(name, entry) for name, entry in found.items()}
    first, *others = entries.values()
    if any(other != first for other in others):
        raise DatasetError(f"{FILE} describes {file.name!r} several times ({', '.join(entries)}); leave one.")
    notes.read.add(file.parent / FILE)
    notes.remark(f"{file.name}: columns as {FILE} names them ({next(iter(entries))})")
    return first


def _names(entry: object, file: str) -> bool:
    return isinstance(entry, Mapping) and entry.get("file_name") == file


def _listed(folder: Path) -> Mapping[str, Any]:
    path = folder / FILE
    try:
        listed = _parsed(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, RecursionError):
        return {}
    return listed if isinstance(listed, Mapping) else {}


@lru_cache(maxsize=16)
def _parsed(path: Path, _modified: int) -> object:
    return json.loads(path.read_bytes())


def _entry(name: str, entry: Mapping[str, Any]) -> Entry:
    """Raises DatasetError for what its trainer does with a data set that none here does."""
    for key in ("ranking", "num_samples", "subset"):
        if entry.get(key):
            raise DatasetError(f"{FILE} gives {name!r} {key}: {shown(entry[key])}, which no training here follows.")
    formatting = entry.get("formatting", "alpaca")
    if formatting not in _USUAL and formatting != "openai":
        raise DatasetError(f"{FILE} gives {name!r} the unknown formatting {shown(formatting)}.")
    columns = entry.get("columns") or _USUAL["sharegpt" if formatting == "openai" else formatting]
    tags = {**_TAGS, **(entry.get("tags") or {})}
    unknown = [key for key in columns if key not in _COLUMNS]
    texts = [*columns.values(), *tags.values()]
    if unknown or not all(isinstance(text, str) for text in texts):
        raise DatasetError(f"{FILE} gives {name!r} columns or tags that are unknown: {shown(unknown or texts)}.")
    return Entry({column: _COLUMNS[key] for key, column in columns.items()}, tags)
