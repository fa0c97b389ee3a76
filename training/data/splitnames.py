"""Names of splits in names of files and folders, by the words that Hugging Face's loader looks for."""

import re
from pathlib import Path

from app.errors import DatasetError
from training.data.fields import SPLITS

KNOWN = "train, training, val, valid, validation, dev, eval, test or testing"
# Tables that Common Voice puts beside train, dev and test: rows of theirs again, or rows that were voted down
BESIDE = frozenset(
    ("validated", "invalidated", "other", "reported", "clip_durations", "validated_sentences", "unvalidated_sentences")
)
WORDS = frozenset(SPLITS)
_SHARD = re.compile(r"[-_.]?\d+")


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
