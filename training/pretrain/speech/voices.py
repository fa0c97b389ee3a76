"""Permissively licensed synthetic voices behind one call: `say(line, rng) -> Take`.

hibari (Apache-2.0) renders from a spectral envelope and a pitch curve, so that one voice becomes
many speakers: the envelope is stretched along frequency (vocal tract length) and the pitch moved.
flite (BSD-like) and espeak-ng (GPL program; its speech is not a derived work) run as programs.
"""

import io
import random
import subprocess
import wave
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import soxr

from training.pretrain.speech import accents, manners
from training.pretrain.text.corpus import Line

RATE = 16_000  # Hz, the rate of the model
Wave = npt.NDArray[np.float32]
MOUTH = (30, 90, 180)  # bins of 20 Hz where a speaker's formants are moved


@dataclass(frozen=True)
class Take:
    """One recording: mono samples in [-1, 1] at `RATE`, who speaks, and as which gender, if clear."""

    samples: Wave
    voice: str
    gender: str | None


class Voice(Protocol):
    """Anything that can say a line."""

    def say(self, line: Line, rng: random.Random) -> Take:
        """Speak the line, with the randomness of `rng`."""


class Hibari:
    """The neural voice of hibari, bent into many speakers."""

    def __init__(self) -> None:
        """Load the network (0.5 s)."""
        self.package: Any = import_module("hibari")  # late: only synthesis needs it
        self.engine: Any = self.package.Hibari()

    def say(self, line: Line, rng: random.Random) -> Take:
        """Speak as a new speaker: vocal tract -20 … +18 %, pitch 0.45 … 1.25 of the original, accent and manner."""
        deep = rng.random() < 0.55
        tract = rng.uniform(0.80, 0.98) if deep else rng.uniform(0.92, 1.18)
        pitch = rng.uniform(0.45, 0.68) if deep else rng.uniform(0.72, 1.25)
        spoken = self._phonemes(line)
        if line.language == "en":
            spoken = accents.accented(spoken, rng)
        ids = np.asarray([self.engine.ids(spoken + rng.choice((".", ".", "!", "?", "")))], np.int64)
        speed = np.asarray([rng.uniform(0.75, 1.3)], np.float32)
        found = (part[0] for part in self.engine.sess.run(None, {"ids": ids, "speed": speed}))
        manner = manners.draw(rng)
        parts = manners.bend(manners.Parts(*found), manner, rng)
        mouth = (tract * rng.uniform(0.94, 1.06), tract, tract * rng.uniform(0.93, 1.08))
        harmonic, noise, free = (_stretch(part, mouth) for part in (parts.harmonic, parts.noise, parts.free))
        noise = noise + np.float32(rng.uniform(-0.6, 0.9))  # breathiness, in nepers
        f0 = _intonation(parts.f0, pitch, rng.uniform(0.6, 1.4))
        generator = np.random.default_rng(rng.getrandbits(32))
        samples = self.package.dsp.synth(harmonic, parts.phase, noise, free, parts.angle, f0, generator)
        samples = manners.finish(samples, manner, rng)
        gender = "male" if pitch < 0.66 else "female" if pitch > 0.85 and tract > 0.95 else None
        gender = gender if manner in ("plain", "drawl", "hurried") else None
        return Take(resampled(samples, 24_000), "hibari", gender)

    def _phonemes(self, line: Line) -> str:
        """Phonemes of the line; a foreign one is read by espeak-ng's rules of its language."""
        if line.language == "en":
            return " ".join(self.engine.phonemize(line.text)).rstrip(".")
        program = ["espeak-ng", "-q", "--ipa", "-v", line.language, line.text]
        return subprocess.run(program, capture_output=True, check=True, text=True).stdout.strip()


class Flite:
    """One of flite's built-in voices."""

    def __init__(self, name: str, gender: str) -> None:
        """Name a voice of `flite -lv`."""
        self.name, self.gender = name, gender

    def say(self, line: Line, rng: random.Random) -> Take:
        """Speak at 0.8 … 1.25 of the voice's own pace."""
        pace = f"duration_stretch={rng.uniform(0.8, 1.25):.2f}"
        program = [
            "flite",
            "-voice",
            self.name,
            "--setf",
            pace,
            "-t",
            line.text,
            "-o",
            "/dev/stdout",
        ]
        return Take(_run(program), f"flite-{self.name}", self.gender)


class Espeak:
    """espeak-ng's formant voices: robotic, hence a small share; the only one with languages."""

    def say(self, line: Line, rng: random.Random) -> Take:
        """Speak with a random variant, pitch and pace."""
        number, female = rng.randint(1, 5), rng.random() < 0.5
        accent = rng.choice(("en-us", "en-gb")) if line.language == "en" else line.language
        voice = f"{accent}+{'f' if female else 'm'}{number}"
        pitch = rng.randint(50, 80) if female else rng.randint(20, 50)
        pace = ["-p", str(pitch), "-s", str(rng.randint(120, 190))]
        program = ["espeak-ng", "-v", voice, *pace, "--stdout", line.text]
        return Take(_run(program), f"espeak-{voice}", "female" if female else "male")


def resampled(samples: npt.NDArray[np.floating[Any]], rate: int) -> Wave:
    """Bring samples of another rate to `RATE`."""
    return np.asarray(soxr.resample(samples, rate, RATE), np.float32)


def _run(program: list[str]) -> Wave:
    """Run a program that writes a WAV file to its output; return it at `RATE`."""
    done = subprocess.run(program, capture_output=True, check=True)
    with wave.open(io.BytesIO(done.stdout)) as sound:
        rate = sound.getframerate()
        # the length in the header of a stream is not the real one: read what came
        pcm = np.frombuffer(done.stdout[44:], dtype="<i2").astype(np.float32) / 32768
    return resampled(pcm, rate)


def _stretch(envelope: Wave, factors: tuple[float, float, float]) -> Wave:
    """Stretch a log spectrum [bins, frames] along frequency, by factors of its own near 0.6, 1.8 and 3.6 kHz."""
    bins = np.arange(len(envelope))
    place = np.clip(bins / np.interp(bins, MOUTH, factors), 0, len(envelope) - 1.001)
    below = place.astype(int)
    share = (place - below).astype(np.float32)[:, None]
    stretched: Wave = envelope[below] * (1 - share) + envelope[below + 1] * share
    return stretched


def _intonation(f0: Wave, pitch: float, depth: float) -> Wave:
    """Scale the pitch curve (Hz, 0 where unvoiced) and its excursions around the mean."""
    voiced = f0 > 40
    mean = float(f0[voiced].mean()) if voiced.any() else 1.0
    moved = mean * pitch * (np.maximum(f0, 1) / mean) ** depth
    return np.where(voiced, np.maximum(moved, 55), 0).astype(np.float32)
