"""A small dataset made of nothing: the tones that a telephone line plays, and what they mean (ITU-T E.180)."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.overwriting import check_unused

RATE = 16_000
PROMPT = "What does the line say?"
FILE = "data.jsonl"


@dataclass(frozen=True)
class Signal:
    """``beats``: (frequencies in Hz, seconds), repeated; no frequency is a pause."""

    answer: str
    beats: tuple[tuple[tuple[int, ...], float], ...]


SIGNALS = (
    Signal("go ahead and dial", (((350, 440), 5.0),)),
    Signal("the line is busy", (((480, 620), 0.5), ((), 0.5))),
    Signal("the network is full", (((480, 620), 0.25), ((), 0.25))),
    Signal("it is ringing", (((440, 480), 1.2), ((), 1.0))),
    Signal("wrong number", (((950,), 0.33), ((1400,), 0.33), ((1800,), 0.33), ((), 0.6))),
    Signal("a fax is calling", (((1100,), 0.5), ((), 1.5))),
)


def write(folder: Path, rows: int = 240, *, seed: int = 0, force: bool = False) -> Path:
    """Write ``rows`` recordings of about 3 s and `data.jsonl`; its path.

    Pitch, pace, level, beginning, length and line noise differ from clip to clip. Raises Conflict where one of the
    files is there, unless ``force``.
    """
    import soundfile

    check_unused([folder / FILE, *(folder / _recording(number) for number in range(rows))], force)
    folder.mkdir(parents=True, exist_ok=True)
    rng, lines = random.Random(seed), []
    for number in range(rows):
        signal = rng.choice(SIGNALS)
        file = _recording(number)
        soundfile.write(folder / file, _play(signal, rng), RATE)
        lines.append({"audio": file, "prompt": PROMPT, "response": signal.answer})
    target = folder / FILE
    target.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return target


def _recording(number: int) -> str:
    return f"{number:04d}.flac"


def _play(signal: Signal, rng: random.Random) -> npt.NDArray[np.float32]:
    """Some seconds of a signal over a noisy line, float32 [samples]."""
    pitch, pace, level = rng.uniform(0.94, 1.06), rng.uniform(0.85, 1.15), 10 ** rng.uniform(-1.0, -0.4)
    once = np.concatenate([_beat(tones, pitch, seconds * pace) for tones, seconds in signal.beats])
    start, length = rng.randrange(len(once)), int(rng.uniform(2.5, 3.5) * RATE)
    wave = np.take(once, np.arange(start, start + length), mode="wrap")
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(length)
    return (level * (wave + 10 ** rng.uniform(-2.5, -1.2) * noise)).astype(np.float32)


def _beat(tones: tuple[int, ...], pitch: float, seconds: float) -> npt.NDArray[np.float64]:
    time = np.arange(int(seconds * RATE)) / RATE
    wave = np.zeros(len(time))
    for tone in tones:
        wave += np.sin(2 * np.pi * tone * pitch * time) / len(tones)
    faded: npt.NDArray[np.float64] = wave * np.minimum(1, np.minimum(time, time[::-1]) / 0.005)  # 5 ms, no click
    return faded
