"""Manners of speaking, over hibari's frames: a larynx and a mouth of one's own, shouts, drawls, whispers, flat voices.

Arrays are what hibari's network returns: log magnitudes [601 bins of 20 Hz, frames of 12.5 ms] of the harmonic, the
noise and the free branch, their phases, and the pitch in Hz [frames], 0 where unvoiced.
"""

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.float32]
BIN = 20.0  # Hz
KNOTS = np.array([0, 300, 700, 1200, 1800, 2600, 3600, 5000, 7000, 12_000]) / BIN  # of a speaker's timbre
MANNERS = {"plain": 0.5, "shout": 0.16, "drawl": 0.08, "hurried": 0.06, "whisper": 0.05, "creak": 0.06, "flat": 0.09}


@dataclass(frozen=True)
class Parts:
    """One utterance before it becomes a wave."""

    harmonic: Frames
    phase: Frames
    noise: Frames
    free: Frames
    angle: Frames
    f0: Frames


def draw(rng: random.Random) -> str:
    """Draw a manner."""
    return rng.choices([*MANNERS], [*MANNERS.values()])[0]


def bend(parts: Parts, manner: str, rng: random.Random) -> Parts:
    """Give the utterance a timbre, a rhythm of its own and the manner."""
    draw = np.random.default_rng(rng.getrandbits(32))
    parts = _timbre(parts, draw)
    depth = {"plain": 0.2, "drawl": 0.45, "shout": 0.35}.get(manner, 0.25)
    bias = {"drawl": -0.35, "hurried": 0.25, "shout": -0.1}.get(manner, 0.0)
    parts = _paced(parts, depth * rng.random() * 1.4, bias * rng.random(), draw)
    if manner == "shout":
        return _shout(parts, rng)
    if manner == "whisper":
        noise = np.logaddexp(parts.noise, parts.harmonic - rng.uniform(1.0, 2.0)).astype(np.float32)
        return replace(parts, noise=noise, harmonic=parts.harmonic - np.float32(rng.uniform(4, 9)))
    if manner == "creak":
        shake = np.exp(draw.standard_normal(len(parts.f0)) * rng.uniform(0.02, 0.12))
        return replace(parts, f0=(parts.f0 * shake * rng.uniform(0.7, 1.0)).astype(np.float32))
    if manner == "flat":
        return replace(parts, f0=_tune(parts.f0, rng, draw))
    return parts


def finish(samples: npt.NDArray[Any], manner: str, rng: random.Random) -> npt.NDArray[Any]:
    """Overdrive a shout now and then."""
    if manner == "shout" and rng.random() < 0.6:
        drive = rng.uniform(1, 6)
        return np.asarray(np.tanh(drive * samples / max(float(np.abs(samples).max()), 1e-3)))
    return samples


def _timbre(parts: Parts, draw: np.random.Generator) -> Parts:
    """Raise and lower bands by some decibels, the same for the whole utterance."""
    gains = draw.standard_normal(len(KNOTS)) * draw.uniform(0, 0.45)
    curve = np.interp(np.arange(len(parts.harmonic)), KNOTS, gains).astype(np.float32)[:, None]
    return replace(parts, harmonic=parts.harmonic + curve, noise=parts.noise + curve, free=parts.free + curve)


def _paced(parts: Parts, depth: float, bias: float, draw: np.random.Generator) -> Parts:
    """Stretch some sounds and shorten others, by smooth factors of e^±depth around e^bias."""
    count = len(parts.f0)
    knots = draw.standard_normal(count // 10 + 3) * depth + bias
    rate = np.exp(np.interp(np.arange(3 * count) / 10, np.arange(len(knots)), knots))
    place = np.cumsum(rate)
    place = place[place < count].astype(int)
    if len(place) < 4:
        return parts
    cut = {name: value[..., place] for name, value in vars(parts).items()}
    return Parts(**cut)


def _shout(parts: Parts, rng: random.Random) -> Parts:
    """Higher, flatter, brighter, less breath."""
    octaves = np.log2(np.maximum(np.arange(len(parts.harmonic)) * BIN, 500) / 500).clip(0, 3)
    bright = (rng.uniform(0.2, 0.9) * octaves).astype(np.float32)[:, None]
    f0 = parts.f0 * rng.uniform(1.1, 1.9)
    f0 = np.where(f0 > 40, f0.clip(60, 520), f0).astype(np.float32)
    return replace(parts, harmonic=parts.harmonic + bright, free=parts.free + bright, f0=f0)


def _tune(f0: Frames, rng: random.Random, draw: np.random.Generator) -> Frames:
    """One pitch all along, as a machine speaks, or a few held ones, as people sing."""
    voiced = f0 > 40
    if not voiced.any():
        return f0
    base = float(np.median(f0[voiced]))
    if rng.random() < 0.5:
        return np.where(voiced, base, f0).astype(np.float32)
    notes = 2 ** (draw.integers(-5, 8, len(f0) // 16 + 1) / 12)
    sung = base * np.repeat(notes, 16)[: len(f0)] * (1 + 0.02 * np.sin(np.arange(len(f0)) * 0.45))
    return np.where(voiced, sung, f0).astype(np.float32)
