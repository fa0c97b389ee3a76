"""A real task for heads: human speech against sounds made by formula, half a second to a second and a half each."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from training.data.rows import Row, Sound, Turn

HUMAN = Path(__file__).parent / "data" / "human"
HELD_OUT = ("goforward", "tidigits-2934z", "librivox-0930", "cards-005")  # recordings no training row is cut from
RATE = 16_000
LABELS = ("chirp", "clicks", "noise", "sine", "speech")


@dataclass(frozen=True)
class Sample:
    label: str
    samples: np.ndarray
    held_out: bool


def samples(seed: int = 0, made: int = 16) -> list[Sample]:
    """``made`` sounds of each kind, a quarter of them held out, and all human recordings in windows."""
    drawn = np.random.default_rng(seed)
    found = [
        Sample(label, _loud(make(drawn, int(drawn.uniform(0.5, 1.5) * RATE)), drawn), index % 4 == 0)
        for label, make in MAKERS.items()
        for index in range(made)
    ]
    for file in sorted(HUMAN.glob("*.flac")):
        spoken, rate = soundfile.read(file, dtype="float32")
        assert rate == RATE
        windows = np.array_split(spoken, max(1, len(spoken) // RATE))[:6]
        found += [Sample("speech", _loud(window, drawn), file.stem in HELD_OUT) for window in windows]
    return found


def rows(samples: list[Sample]) -> list[Row]:
    """As the data readers give them."""
    return [
        Row((Turn("user", "<audio>"),), (Sound(f"{index}.wav", data=wav(each.samples)),), each.label, f"made:{index}")
        for index, each in enumerate(samples)
    ]


def wav(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _time(count: int) -> np.ndarray:
    return np.arange(count) / RATE


def _sine(drawn: np.random.Generator, count: int) -> np.ndarray:
    return np.sin(2 * np.pi * drawn.uniform(150, 3000) * _time(count))


def _chirp(drawn: np.random.Generator, count: int) -> np.ndarray:
    low, high = drawn.uniform(100, 500), drawn.uniform(1500, 5000)
    frequency = np.linspace(low, high, count)[:: drawn.choice([-1, 1])]
    return np.sin(2 * np.pi * np.cumsum(frequency) / RATE)


def _clicks(drawn: np.random.Generator, count: int) -> np.ndarray:
    wave = np.zeros(count)
    wave[:: int(RATE / drawn.uniform(4, 20))] = 1
    return np.convolve(wave, np.exp(-np.arange(80) / 10), mode="same")


def _noise(drawn: np.random.Generator, count: int) -> np.ndarray:
    return drawn.standard_normal(count)


MAKERS = {"sine": _sine, "chirp": _chirp, "clicks": _clicks, "noise": _noise}


def _loud(wave: np.ndarray, drawn: np.random.Generator) -> np.ndarray:
    """At some level, over a little noise: neither tells the label."""
    wave = wave / max(float(np.abs(wave).max()), 1e-6) * drawn.uniform(0.1, 0.8)
    return (wave + 0.002 * drawn.standard_normal(len(wave))).astype(np.float32)
