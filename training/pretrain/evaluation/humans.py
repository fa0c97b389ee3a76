"""Human recordings, for evaluation only: the clips of the repository and the Asterisk prompts.

A folder of test clips holds 16 kHz FLAC files and `transcripts.tsv` with the columns file,
category, text. `tests/data/human/` ships one; `collect` writes one from Debian's
`asterisk-core-sounds-*` packages (CC-BY-SA-3.0), which this project does not distribute.
"""

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from training.pretrain.speech.voices import RATE, Wave
from training.pretrain.text.wording import normalise

SOUNDS = Path("/usr/share/asterisk/sounds")
SCRIPT = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
ENGLISH = "en_US_f_Allison"
LONGEST = 10.0  # seconds; what does not fit the window is left out and counted
FOREIGN_CLIPS = 40  # of each other language
SILENT = "silence"


@dataclass(frozen=True)
class Human:
    """One human recording; `text` is the normalised transcript, empty where nobody speaks English."""

    path: Path
    category: str
    text: str

    def samples(self) -> Wave:
        """Read the samples, mono at 16 kHz."""
        wave, rate = soundfile.read(self.path, dtype="float32")
        assert rate == RATE, f"{self.path}: {rate} Hz"
        return np.asarray(wave, np.float32)


def read(folder: Path) -> list[Human]:
    """Read a folder's transcripts."""
    rows = (folder / "transcripts.tsv").read_text(encoding="utf-8").splitlines()[1:]
    cells = (row.split("\t") for row in rows)
    return [Human(folder / name, category, text) for name, category, text in cells]


def collect(target: Path) -> int:
    """Convert the installed Asterisk prompts into a folder of test clips; return their number."""
    target.mkdir(parents=True, exist_ok=True)
    rows = ["file\tcategory\ttext"]
    for path, category, text in _prompts():
        samples = _decode(path)
        if not 0.1 < len(samples) / RATE <= LONGEST:
            continue
        name = "-".join(path.relative_to(SOUNDS).with_suffix(".flac").parts)
        soundfile.write(target / name, samples, RATE)
        rows.append(f"{name}\t{category}\t{text}")
    (target / "transcripts.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return len(rows) - 1


def _prompts() -> Iterator[tuple[Path, str, str]]:
    """Yield file, category and transcript of every usable prompt."""
    for line in gzip.decompress(SCRIPT.read_bytes()).decode().splitlines():
        name, _, text = line.strip().partition(": ")
        path = SOUNDS / ENGLISH / f"{name}.g722"
        if not path.exists() or line.startswith(";"):
            continue
        if name.startswith("silence/"):
            yield path, SILENT, ""
        elif not re.search(r"[\[<(*#]", text) or name.startswith("letters/"):
            text = normalise(re.sub(r"\[.*?\]", "", text))
            yield path, _category(name, text), text
    for language in sorted(SOUNDS.iterdir()):
        if not language.name.startswith("en"):
            for path in sorted(language.glob("*.g722"))[:FOREIGN_CLIPS]:
                yield path, "foreign", ""


def _category(name: str, text: str) -> str:
    """Sort a prompt: numbers, letters, NATO words, other words (one or two), sentences."""
    room = name.partition("/")[0]
    if re.fullmatch(r"digits/\d+", name):
        return "digits"
    if room in ("letters", "phonetic"):
        return room
    return "words" if len(text.split()) <= 2 else "sentences"


def _decode(path: Path) -> Wave:
    """Decode G.722 (64 kbit/s, 16 kHz)."""
    import av  # imported late: only this step decodes G.722

    with av.open(str(path), format="g722") as sound:
        parts = [frame.to_ndarray().ravel() for frame in sound.decode(audio=0)]
    return np.asarray(np.concatenate(parts) / 32768, np.float32)
