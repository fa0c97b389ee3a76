"""Synthesis: lines become shards of speech that training can read while more are written.

A shard is two files: `NAME.npy`, the samples of all its clips one after another (int16, 16 kHz),
and `NAME.jsonl`, one record a clip. The second is renamed into place last: it exists only when
the shard is whole.
"""

import json
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from training.pretrain.speech.sounds import Sounds, silence
from training.pretrain.speech.voices import RATE, Espeak, Flite, Hibari, Take, Voice, Wave
from training.pretrain.text.commands import Frame
from training.pretrain.text.corpus import Corpus, Line

SHARD = 256  # clips
LONGEST = int(9.8 * RATE)  # samples; the tower's window is 10 s and augmentation may slow down
UNSEEN_VOICE = "flite-awb"  # says validation sentences only
OTHER = {"foreign": 0.06, "sound": 0.02, "silence": 0.012}  # shares of all clips


@dataclass(frozen=True)
class Record:
    """Facts of one clip; `kind` is speech, sound or silence, `text` what is said or heard."""

    length: int  # samples
    text: str
    kind: str
    voice: str
    gender: str | None
    language: str
    frame: Frame
    validation: bool


def write_lines(corpus: Corpus, count: int, target: Path) -> None:
    """Draw the lines of a run; a sentence is for training or for validation, never for both."""
    with target.open("w", encoding="utf-8") as out:
        for _ in range(count):
            line = corpus.foreign() if corpus.rng.random() < OTHER["foreign"] else corpus.draw()
            out.write(json.dumps(asdict(line), ensure_ascii=False) + "\n")


def read_lines(source: Path) -> list[Line]:
    """Read lines written by `write_lines`."""
    return [Line(**json.loads(row)) for row in source.read_text(encoding="utf-8").splitlines()]


def read_speech(folder: Path, count: int) -> list[tuple[Wave, str]]:
    """The first English clips of a folder's shards, with their words."""
    found: list[tuple[Wave, str]] = []
    for path in sorted(folder.glob("*.jsonl")):
        sound, place = np.load(path.with_suffix(".npy")), 0
        for row in path.read_text(encoding="utf-8").splitlines():
            record = Record(**json.loads(row))
            samples = (sound[place : place + record.length] / 32768).astype(np.float32)
            place += record.length
            if record.kind == "speech" and record.language == "en":
                found.append((samples, record.text))
    return found[:count]


def is_validation(text: str) -> bool:
    """Set one sentence in fifty aside (four words or more), by its own letters."""
    return len(text.split()) >= 4 and sum(text.encode()) % 50 == 0


def synthesise(lines: Path, target: Path, workers: int, seed: int, unseen: bool) -> None:
    """Say all lines with `workers` processes; without `unseen`, that voice is not used at all."""
    target.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(_work, lines, target, number, workers, seed, unseen) for number in range(workers)]
        for job in jobs:
            job.result()


def import_recordings(manifest: Path, target: Path) -> None:
    """Turn synthetic recordings made beforehand (`voices_kokoro`) into shards."""
    target.mkdir(parents=True, exist_ok=True)
    rows = [row.split("\t") for row in manifest.read_text(encoding="utf-8").splitlines()]
    _write_shards("kokoro", _recorded(manifest.parent, rows), target)


def _recorded(folder: Path, rows: list[list[str]]) -> Iterator[tuple[Record, Wave]]:
    """Yield the recordings of a Kokoro manifest: name, text, weights of the five voices, seconds."""
    for name, text, weights, _ in rows:
        samples, rate = soundfile.read(folder / f"{name}.opus", dtype="float32")
        assert rate == RATE, f"{name}: {rate} Hz"
        male = float(weights.split(",")[-1])
        gender = "male" if male > 0.7 else "female" if male < 0.15 else None
        yield _speech(Line(text), Take(samples, "kokoro", gender))


def _work(lines: Path, target: Path, number: int, workers: int, seed: int, unseen: bool) -> None:
    """Say every `workers`-th line, in one process."""
    clips = _clips(read_lines(lines)[number::workers], random.Random(1000 * seed + number), unseen)
    _write_shards(f"part{seed}-{number:02d}", clips, target)


def _clips(lines: list[Line], rng: random.Random, unseen: bool) -> Iterator[tuple[Record, Wave]]:
    """Yield the clips of the lines, with sounds and silences in between."""
    sounds = Sounds()
    cast = _Cast(unseen)
    for line in lines:
        take = cast.pick(line, rng).say(line, rng)
        if RATE // 8 < len(take.samples) < LONGEST:
            yield _speech(line, take)
        chance = rng.random()
        if chance < OTHER["sound"]:
            yield _other("sound", *sounds.draw(rng))
        elif chance < OTHER["sound"] + OTHER["silence"]:
            yield _other("silence", "silence", silence(rng))


class _Cast:
    """The voices and who gets a line."""

    def __init__(self, unseen: bool) -> None:
        """Load all voices."""
        self.hibari, self.espeak = Hibari(), Espeak()
        self.unseen = Flite("awb", "male") if unseen else None
        self.seen: list[Voice] = [
            self.hibari, Flite("slt", "female"), Flite("rms", "male"), self.espeak
        ]  # fmt: skip

    def pick(self, line: Line, rng: random.Random) -> Voice:
        """Pick the voice of a line; only validation sentences may get the unseen one."""
        if line.language != "en":
            return rng.choices((self.hibari, self.espeak), (0.7, 0.3))[0]
        if self.unseen and is_validation(line.text) and rng.random() < 0.5:
            return self.unseen
        return rng.choices(self.seen, (0.66, 0.13, 0.15, 0.06))[0]


def _speech(line: Line, take: Take) -> tuple[Record, Wave]:
    """Describe a spoken clip."""
    aside = is_validation(line.text)
    assert aside or take.voice != UNSEEN_VOICE
    facts = (line.text, "speech", take.voice, take.gender, line.language, line.frame, aside)
    return Record(len(take.samples), *facts), take.samples


def _other(kind: str, label: str, samples: Wave) -> tuple[Record, Wave]:
    """Describe a clip without speech."""
    return Record(len(samples), label, kind, kind, None, "", {"intent": "other"}, False), samples


def _write_shards(name: str, clips: Iterable[tuple[Record, Wave]], target: Path) -> None:
    """Write clips in shards of `SHARD`."""
    records: list[Record] = []
    waves: list[Wave] = []
    number = 0
    for record, samples in clips:
        records.append(record)
        waves.append(samples)
        if len(records) == SHARD:
            _write_shard(target / f"{name}-{number:04d}", records, waves)
            records, waves, number = [], [], number + 1
    if records:
        _write_shard(target / f"{name}-{number:04d}", records, waves)


def _write_shard(path: Path, records: list[Record], waves: list[Wave]) -> None:
    """Write one shard; each clip is brought to a peak of 0.7, loudness is augmentation's business."""
    levelled = [wave / max(float(np.abs(wave).max()), 1e-2) * 0.7 for wave in waves]
    np.save(path.with_suffix(".npy"), (np.concatenate(levelled) * 32767).astype(np.int16))
    unfinished = path.with_suffix(".tmp")
    rows = (json.dumps(asdict(record), ensure_ascii=False) for record in records)
    unfinished.write_text("\n".join(rows) + "\n", encoding="utf-8")
    unfinished.rename(path.with_suffix(".jsonl"))
