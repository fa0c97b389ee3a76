"""Rows to train on and rows held out, and the splits that names of files and folders say.

A name says a split by the words that Hugging Face's loader looks for.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal, cast

from app.errors import DatasetError
from training.data.checks.findings import SplitUse
from training.data.fields import SPLITS
from training.data.rows import Row

KNOWN = "train, training, val, valid, validation, dev, eval, test or testing"
# Tables that Common Voice puts beside train, dev and test: rows of theirs again, or rows that were voted down
BESIDE = frozenset(
    ("validated", "invalidated", "other", "reported", "clip_durations", "validated_sentences", "unvalidated_sentences")
)
WORDS = frozenset(SPLITS)
_SHARD = re.compile(r"[-_.]?\d+")


def split(
    rows: Sequence[Row], *, fraction: float, seed: int, key_of: Callable[[Row], tuple[str, ...]]
) -> tuple[list[Row], list[Row]]:
    """Training rows and validation rows.

    Rows that say `validation` are the validation; without any, those that say `test`; without both, ``fraction`` of
    the distinct audio, of rows that do not say `train` where there are such. ``key_of`` gives the hashes of a row's
    recordings: rows that share one stay on one side. Of each label something stays to train on, where that is
    possible. Test rows are never trained on.
    Raises DatasetError when nothing is left to train on.
    """
    held = {row.split for row in rows if row.split in ("validation", "test")}
    if not held:
        return _share(rows, fraction, seed, key_of)
    wanted = "validation" if "validation" in held else "test"
    train = [row for row in rows if row.split in (None, "train")]
    if not train:
        raise DatasetError(f"All rows are marked {' or '.join(sorted(map(str, held)))}; none is left to train on.")
    return train, [row for row in rows if row.split == wanted]


def uses_of(rows: Sequence[Row], train: Sequence[Row], held: Sequence[Row]) -> list[SplitUse]:
    """The use of each split that ``rows`` name, in the order train, validation, test, none."""
    sides = ("train", {id(row) for row in train}), ("held_out", {id(row) for row in held})
    found = Counter((row.split, next((use for use, side in sides if id(row) in side), "unused")) for row in rows)
    order = ("train", "validation", "test", None)
    known = sorted(found.items(), key=lambda one: (order.index(one[0][0]), one[0][1]))
    return [SplitUse(name, count, cast(Literal["train", "held_out", "unused"], use)) for (name, use), count in known]


def _share(
    rows: Sequence[Row], fraction: float, seed: int, key_of: Callable[[Row], tuple[str, ...]]
) -> tuple[list[Row], list[Row]]:
    groups = _groups(rows, key_of)
    # by hash, so that a row keeps its side when others come and go
    free = [name for name in groups if all(rows[index].split != "train" for index in groups[name])]
    order = sorted(free or groups, key=lambda name: sha256(f"{seed}:{name}".encode()).digest())
    count = min(max(1, round(fraction * len(groups))), len(groups) - 1)
    left = Counter(row.label for row in rows)
    taken: set[str] = set()
    for name in order:
        labels = Counter(rows[index].label for index in groups[name])
        if len(taken) < count and all(left[label] > lost for label, lost in labels.items()):
            left -= labels
            taken.add(name)
    taken = taken or set(order[:count])
    held = {index for name in taken for index in groups[name]}
    train = [row for index, row in enumerate(rows) if index not in held]
    return train, [row for index, row in enumerate(rows) if index in held]


def _groups(rows: Sequence[Row], key_of: Callable[[Row], tuple[str, ...]]) -> dict[str, list[int]]:
    """Indices of rows that share audio, directly or by way of others; named by their least key."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    keys = [key_of(row) or (row.place,) for row in rows]  # a row without audio is a group of its own
    for own in keys:
        for key in own:
            least, other = sorted((root(own[0]), root(key)))
            parent[other] = least
    groups: dict[str, list[int]] = {}
    for index, own in enumerate(keys):
        groups.setdefault(root(own[0]), []).append(index)
    return groups


def split_of(name: str) -> str | None:
    """The split that a name says: `train-clean-100`, `my_val`, `test`. None without one.

    Raises DatasetError where it says two.
    """
    words = re.split(r"[-._ 0-9]+", name.casefold())
    found = {SPLITS[word] for word in words if word in SPLITS}
    if len(found) > 1:
        raise DatasetError(f"The name {name!r} says {' and '.join(sorted(found))}; rename it to one of {KNOWN}.")
    return next(iter(found), None)


def splits_of_files(files: list[Path]) -> dict[Path, str | None]:
    """The split of each data file of one folder; a single one may have any name. Raises DatasetError.

    Several files make one split only as its numbered shards.
    """
    if len(files) == 1:  # what else its name may say, it is the data
        return {files[0]: SPLITS.get(files[0].stem.casefold())}
    splits = {file: split_of(file.stem) for file in files}
    names = ", ".join(file.name for file in files[:5])
    if None in splits.values():
        known = f"one a split (train.jsonl, val.jsonl …: {KNOWN})"
        raise DatasetError(f"The folder holds several data files ({names}); leave one, or {known}.")
    for split in set(splits.values()):
        same = [file for file in files if splits[file] == split]
        if len({_SHARD.sub("", file.name) for file in same}) > 1:
            listed = ", ".join(file.name for file in same[:5])
            raise DatasetError(f"The folder holds several data files for {split} ({listed}); leave one of them.")
    return splits
