"""Rows to train on and rows held out."""

from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Literal, cast

from app.errors import DatasetError
from training.data.findings import SplitUse
from training.data.rows import Row


def split(
    rows: Sequence[Row], *, fraction: float, seed: int, key_of: Callable[[Row], tuple[str, ...]]
) -> tuple[list[Row], list[Row]]:
    """Training rows and validation rows.

    Rows that say `validation` are the validation; without any, those that say `test`; without both, ``fraction``
    of the distinct audio. ``key_of`` gives the hashes of a row's recordings: rows that share one stay on one side.
    Of each label something stays to train on, where that is possible. Test rows are never trained on.
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
    """What becomes of the rows of each split that ``rows`` name, in the order train, validation, test, none."""
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
    order = sorted(groups, key=lambda name: sha256(f"{seed}:{name}".encode()).digest())
    count = min(max(1, round(fraction * len(order))), len(order) - 1)
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
