"""Folders that are datasets: by data files, by transcripts, by a folder a class; whole, or one folder a split."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from app.audio.decode import SUFFIXES
from app.errors import DatasetError
from training.data import llama_factory
from training.data.encodings import likely_encoding, text_in
from training.data.files import KINDS, read_file
from training.data.hub import is_saved, read_saved
from training.data.records import BadRow, Notes, PassedOver, Record
from training.data.splitting import BESIDE, KNOWN, WORDS, split_of, splits_of_files
from training.data.transcripts import Said, is_kaldi, kaldi_rows, lists_in, read_list

_ABOUT = ("readme", "license", "licence", "copying", "notice", "changelog", "authors", "citation", "about")


def is_hidden(name: str) -> bool:
    """Names that systems leave: `.DS_Store`, `._a.wav`, `__MACOSX`, `Thumbs.db`."""
    return name.startswith((".", "__MACOSX")) or name.casefold() in ("thumbs.db", "desktop.ini")


def read_folder(folder: Path, notes: Notes, roots: Sequence[Path] = ()) -> Iterator[Record]:
    """The records of a folder. Raises DatasetError when it is no dataset, or several, or one of two things."""
    yield from _Reader(folder, notes, roots).read(folder, None)


def note_left_over(folder: Path, notes: Notes) -> None:
    """Put every file that no row was made of among those passed over; all rows have been read."""
    used = {file.resolve() for file in notes.read}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.resolve() in used:
            continue
        name = str(path.relative_to(folder))
        if any(is_hidden(part) for part in path.relative_to(folder).parts):
            notes.passed_over.append(PassedOver(name, "a hidden file"))
        elif path.suffix.lower() in SUFFIXES:
            notes.passed_over.append(PassedOver(name, "no row names this recording"))
        elif not path.stem.casefold().startswith(_ABOUT) and path.suffix.lower() != ".md":
            notes.passed_over.append(PassedOver(name, "no recording and no data file by its name"))


@dataclass(frozen=True)
class _Reader:
    top: Path
    notes: Notes
    roots: Sequence[Path]

    def read(self, folder: Path, split: str | None) -> Iterator[Record]:
        """The records of one folder. Recordings, lists and class folders of it belong to ``split``."""
        entries = [entry for entry in sorted(folder.iterdir()) if not is_hidden(entry.name)]
        folders = [entry for entry in entries if entry.is_dir() and _holds_data(entry)]
        files = [entry for entry in entries if entry.is_file() and _is_data_file(entry)]
        splits = {entry: split_of(entry.name) for entry in folders}
        if is_saved(folder):
            for record in read_saved(folder, self.notes, self.roots):
                yield record._replace(split=record.split or split)
        elif files:
            yield from self._files(files, split)
        elif tables := [path.parent for path in sorted(folder.rglob("wav.scp")) if is_kaldi(path.parent)]:
            for place in tables:
                own = split or (split_of(place.name) if place != folder else None)
                for line, value in kaldi_rows(place, self.top, self.notes):
                    yield Record(line, value, place, own)
        elif self._lists_beside(folder, folders):
            yield from self._recordings(folder, split)
        elif self._are_splits(folder, entries, splits, split):
            for entry in folders:
                yield from self.read(entry, splits[entry])
        elif len(folders) == 1 and not any(map(_is_recording, entries)) and _wraps(folders[0]):
            yield from self.read(folders[0], split)
        else:
            yield from self._recordings(folder, split)

    def _lists_beside(self, folder: Path, folders: Sequence[Path]) -> bool:
        """True if lists of transcripts here, or in a folder of their own, are about recordings in the other folders."""
        files = [path for path in sorted(folder.rglob("*")) if self._counts(path, folder)]
        found = [path for path in files if _is_recording(path)]
        lists = [path for path in lists_in(files) if not any(inner in path.parents for inner in folders)]
        return bool(lists) and self._listed(lists, found) is not None

    def _files(self, files: list[Path], split: str | None) -> Iterator[Record]:
        """One data file, or one a split."""
        beside = [file for file in files if len(files) > 1 and file.stem.casefold() in BESIDE]
        for file in beside:
            self.notes.read.add(file)
            name = str(file.relative_to(self.top))
            self.notes.passed_over.append(PassedOver(name, "a table beside those of the splits"))
        for file, own in splits_of_files([file for file in files if file not in beside] or files).items():
            if split and own and own != split:
                raise DatasetError(f"{file.relative_to(self.top)} lies in a folder of {split}; rename one of them.")
            place = str(file.relative_to(self.top))
            own = own if len(files) > 1 or split is None else None
            yield from read_file(file, self.notes, name=place, split=own or split, roots=self.roots)

    def _are_splits(
        self, folder: Path, entries: Sequence[Path], splits: dict[Path, str | None], split: str | None
    ) -> bool:
        """True if the folders in a folder are splits. Raises DatasetError where some are and others are not."""
        named = [entry.name for entry in splits if splits[entry]]
        if not named or (len(named) < len(splits) and self._are_classes(folder, named)):
            return False
        others = [entry.name for entry in splits if not splits[entry]]
        others += [entry.name for entry in entries if _is_recording(entry)]
        if others:
            like, unlike = ", ".join(named[:3]), ", ".join(others[:3])
            raise DatasetError(
                f"In {folder.name!r}, {like} is named like a split and {unlike} is not: "
                f"put everything under folders of splits ({KNOWN}), or rename the classes."
            )
        if split and any(splits[entry] != split for entry in splits):
            listed = ", ".join(named[:3])
            raise DatasetError(f"The folder {folder.name!r} of {split} holds {listed}; it can be one split.")
        return True

    def _are_classes(self, folder: Path, named: Sequence[str]) -> bool:
        """True if names that hold a split's word are a class's: one such as test-tone, among others, without texts."""
        plain = any(name.casefold() in WORDS for name in named)
        return not plain and len({split_of(name) for name in named}) == 1 and not any(folder.rglob("*.txt"))

    def _recordings(self, folder: Path, split: str | None) -> Iterator[Record]:
        """Recordings with their words in lists or in a .txt beside them; else the first folder's name is the class."""
        files = [file for file in sorted(folder.rglob("*")) if self._counts(file, folder)]
        found = [file for file in files if _is_recording(file)]
        if not found:
            raise DatasetError(f"The folder {folder.name!r} holds no recordings and no data file.")
        beside = {_key(file): file for file in files if file.suffix.lower() == ".txt"}
        listed = self._listed(lists_in(files), found)
        transcribed = any(_key(path) in beside for path in found)
        for path in found:
            name = str(path.relative_to(folder))
            own = split or self._split_inside(path, folder)
            if listed is not None:
                said = listed.pop(_key(path), None)
                value: object = BadRow("has no line in the list of transcripts") if said is None else said.words
                value = {"audio": name, "response": value} if isinstance(value, str) else value
                yield Record(said.place if said else str(path.relative_to(self.top)), value, folder, own)
                continue
            if transcribed:
                value = self._with_transcript(beside.get(_key(path)), name)
            elif len(path.relative_to(folder).parts) > 1:
                value = {"audio": name, "label": path.relative_to(folder).parts[0]}
            else:
                value = BadRow("has neither a transcript (a .txt of the same name) nor a class folder")
            yield Record(str(path.relative_to(self.top)), value, folder, own)
        for said in (listed or {}).values():
            yield Record(said.place, BadRow("names no recording that is there"), folder, split)

    def _counts(self, file: Path, folder: Path) -> bool:
        return file.is_file() and not any(is_hidden(part) for part in file.relative_to(folder).parts)

    def _split_inside(self, path: Path, folder: Path) -> str | None:
        """The split below a class's folder, or below a corpus's: `rain/test/1.wav`. Raises DatasetError for two."""
        parts = path.relative_to(folder).parts[1:-1]
        found = {split for part in parts if (split := split_of(part)) and part.casefold() in WORDS}
        if len(found) > 1:
            raise DatasetError(f"{path.relative_to(self.top)} lies in folders of several splits.")
        return next(iter(found), None)

    def _listed(self, lists: Sequence[Path], found: Sequence[Path]) -> dict[str, Said] | None:
        """The lists' text for each recording, by its path without suffix; None where no line names a recording."""
        paths: dict[str, list[Path]] = {}
        for path in found:
            paths.setdefault(normalize("NFC", path.stem), []).append(path)
        said: dict[str, Said] = {}
        for file in lists:
            lines = [(normalize("NFC", name), said) for name, said in read_list(file, self.top, Notes())]
            if not any(Path(name).name in paths or Path(name).stem in paths for name, _ in lines):
                continue
            self.notes.read.add(file)
            for name, words in lines:
                named = paths.get(Path(name).name) or paths.get(Path(name).stem) or []
                near = _nearest(file, named)
                if len(near) > 1:
                    either = " or ".join(str(path.relative_to(self.top)) for path in near[:2])
                    raise DatasetError(f"{words.place}: {name!r} may be {either}.")
                key = _key(near[0]) if near else f"\0{words.place}"
                if key in said:
                    raise DatasetError(f"{words.place}: {name!r} has words twice ({said[key].place}).")
                said[key] = words
        return said or None

    def _with_transcript(self, file: Path | None, name: str) -> object:
        if file is None:
            return BadRow("has no transcript (a .txt of the same name)")
        self.notes.read.add(file)
        said = text_in(file.read_bytes(), file.name).strip()
        if any("\ud800" <= character <= "\udfff" for character in said):
            return BadRow(f"has a transcript that is not UTF-8 text (it may be {likely_encoding(said)})")
        return {"audio": name, "response": said}


def _nearest(file: Path, paths: Sequence[Path]) -> list[Path]:
    """Those paths that share the most folders with a file: identifiers may begin anew with each speaker."""
    shared = [len(Path(os.path.commonpath((file.parent, path.parent))).parts) for path in paths]
    return [path for path, depth in zip(paths, shared, strict=True) if depth == max(shared)]


def _key(path: Path) -> str:
    """A path without its suffix, in one Unicode form: a Mac's recordings may lie beside another's transcripts."""
    return normalize("NFC", str(path.with_suffix("")))


def _is_recording(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _is_data_file(path: Path) -> bool:
    """A table or a list; LLaMA-Factory's own list of its datasets is none."""
    return path.suffix.lower() in KINDS and path.name != llama_factory.FILE


def _holds_data(folder: Path) -> bool:
    """True if anything in it could be read: folders of pictures or notes are not asked what they are."""
    return any(
        _is_recording(path) or _is_data_file(path) or path.name == "wav.scp"
        for path in folder.rglob("*")
        if not any(is_hidden(part) for part in path.relative_to(folder).parts)
    )


def _wraps(folder: Path) -> bool:
    """True if an only folder is what an archive puts around its content, and no class."""
    return is_saved(folder) or any(
        entry.is_dir() or _is_data_file(entry) for entry in folder.iterdir() if not is_hidden(entry.name)
    )
