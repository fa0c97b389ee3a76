"""Recordings of known words, in one piece each, and what is put between them."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile

HUMAN = Path(__file__).parents[1] / "data" / "human"
RATE = 16_000
NAMES = sorted(file.stem for file in HUMAN.glob("*.flac"))


def human(name: str) -> np.ndarray:
    """One of the human recordings, float32 [samples]."""
    samples, rate = soundfile.read(HUMAN / f"{name}.flac", dtype="float32")
    assert rate == RATE
    return samples


def piece(name: str, longest: float = 0.12) -> np.ndarray:
    """The longest part of a recording without a pause of ``longest`` seconds, by its energy alone.

    So a cut inside is a cut inside words, whatever a voice activity detector says.
    """
    samples = human(name)
    step = RATE // 100
    frames = samples[: len(samples) // step * step].reshape(-1, step)
    loud = np.square(frames, dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(loud > loud.max() * 1e-3)  # 30 dB below the loudest
    stretches = np.split(loud, np.flatnonzero(np.diff(loud) > 100 * longest) + 1)
    best = max(stretches, key=len)
    return samples[best[0] * step : (best[-1] + 1) * step]


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), np.float32)


def noise(seconds: float, dbfs: float, seed: int = 0, colour: float = 0.0) -> np.ndarray:
    """Steady noise; ``colour`` 1 is brown."""
    drawn = np.random.default_rng(seed).standard_normal(max(1, int(seconds * RATE)))
    spectrum = np.fft.rfft(drawn) / np.maximum(np.fft.rfftfreq(len(drawn), 1 / RATE), 50) ** colour
    made = np.fft.irfft(spectrum, len(drawn))
    return (made / made.std() * 10 ** (dbfs / 20)).astype(np.float32)


def sine(seconds: float, hertz: float, dbfs: float) -> np.ndarray:
    wave = np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)
    return (np.sqrt(2) * 10 ** (dbfs / 20) * wave).astype(np.float32)


def melody(seconds: float, dbfs: float) -> np.ndarray:
    """Plucked notes, four a second."""
    notes = []
    for index in range(int(4 * seconds)):
        wave = sine(0.25, (220, 277, 330, 440, 554)[index % 5], dbfs)
        notes.append(wave * np.exp(-np.arange(len(wave)) / 1500))
    return np.concatenate(notes).astype(np.float32)


def spliced(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """All parts in a row, and where each lies, in samples."""
    edges = np.cumsum([0, *(len(part) for part in parts)]).tolist()
    return np.concatenate(parts), list(pairwise(edges))
