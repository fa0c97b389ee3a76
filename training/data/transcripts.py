"""Recordings whose words stand in lists of `identifier words`: LibriSpeech, AISHELL, VoxForge and Kaldi."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.errors import DatasetError
from training.data.encodings import text_in
from training.data.records import BadRow, Notes

_NAMES = ("prompts", "prompts-original", "transcript.txt", "transcripts.txt", "trans.txt", "text")
KALDI = ("wav.scp", "text")


@dataclass(frozen=True)
class Said:
    """``words`` of a recording, or why they cannot be used; ``place``: where they stand."""

    place: str
    words: str | BadRow


def lists_in(files: Sequence[Path]) -> list[Path]:
    """Those files that are lists of transcripts by their names; of VoxForge's two, PROMPTS."""
    prompts = {file.parent for file in files if file.name == "PROMPTS"}
    named = [file for file in files if not (file.name == "prompts-original" and file.parent in prompts)]
    return [
        file
        for file in named
        if file.name.casefold() in _NAMES
        or file.name.casefold().endswith((".trans.txt", "_transcript.txt"))
        or (file.suffix == ".txt" and "transcript" in file.stem.casefold())
    ]


def read_list(file: Path, top: Path, notes: Notes) -> Iterator[tuple[str, Said]]:
    """Identifier and words of each line. Raises DatasetError for broken text."""
    notes.read.add(file)
    for number, line in enumerate(text_in(file.read_bytes(), file.name).splitlines(), start=1):
        identifier, _, words = line.strip().replace("\t", " ", 1).partition(" ")
        if identifier:
            place = f"{file.relative_to(top)}:{number}"
            yield identifier, Said(place, words.strip() or BadRow("has no words after its identifier"))


def is_kaldi(folder: Path) -> bool:
    """True if the folder holds Kaldi's tables of recordings and words."""
    return all((folder / name).is_file() for name in KALDI)


def kaldi_rows(folder: Path, top: Path, notes: Notes) -> Iterator[tuple[str, object]]:
    """The place and the fields of each utterance of `text`, by `wav.scp` and, where there are any, `segments`.

    Raises DatasetError for tables that do not fit together.
    """
    recordings = dict(_pairs(folder / "wav.scp", notes))
    parts = dict(_pairs(folder / "segments", notes)) if (folder / "segments").is_file() else None
    for table in ("utt2spk", "spk2utt", "spk2gender", "utt2dur", "reco2dur", "utt2num_frames", "feats.scp", "cmvn.scp"):
        if (folder / table).is_file():
            notes.read.add(folder / table)
    found = set[str]()
    for utterance, said in read_list(folder / "text", top, notes):
        found.add(utterance)
        yield said.place, _utterance(utterance, said, recordings, parts, folder, top)
    for name in (parts if parts is not None else recordings).keys() - found:
        yield f"{(folder / 'wav.scp').relative_to(top)}", BadRow(f"the utterance {name!r} has no line in text")


def _utterance(
    name: str, said: Said, recordings: dict[str, str], parts: dict[str, str] | None, folder: Path, top: Path
) -> object:
    if isinstance(said.words, BadRow):
        return said.words
    fields: dict[str, object] = {"text": said.words}
    if parts is not None:
        part = parts.get(name, "").split()
        if len(part) != 3:
            return BadRow(f"the utterance {name!r} has no recording, start and end in segments")
        name, fields["start"], fields["end"] = part
    path = recordings.get(name)
    if path is None:
        return BadRow(f"{name!r} has no line in wav.scp")
    if path.endswith("|"):
        return BadRow(f"wav.scp gives {name!r} a command, which is not run; write the files that it makes")
    if not Path(path).is_absolute() and ".." not in Path(path).parts:
        # Kaldi counts from the recipe's folder, some levels up; beyond the data set nothing is looked at
        places = [place for place in (folder, *folder.parents) if place.is_relative_to(top)]
        path = str(next((place for place in places if (place / path).is_file()), folder) / path)
    return {**fields, "audio": path}


def _pairs(file: Path, notes: Notes) -> Iterator[tuple[str, str]]:
    notes.read.add(file)
    seen = set[str]()
    for line in text_in(file.read_bytes(), file.name).splitlines():
        name, _, value = line.strip().replace("\t", " ", 1).partition(" ")
        if name in seen:
            raise DatasetError(f"{file.name!r} names {name!r} twice.")
        if name:
            seen.add(name)
            yield name, value.strip()
