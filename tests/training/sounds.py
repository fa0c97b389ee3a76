"""Small recordings for tests of data."""

import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 16_000


def babble(seconds: float, seed: int = 0) -> np.ndarray:
    """Harmonics that start and stop like syllables, float32 [samples]."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    voice = sum(np.sin(2 * np.pi * generator.uniform(100, 250) * k * time) / k for k in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * generator.uniform(2, 4) * time + seed), 0.01, 1)
    return (0.1 * voice * syllables).astype(np.float32)


def white(seconds: float, seed: int = 0, level: float = 0.3) -> np.ndarray:
    """`numpy.random.randn`, float32 [samples]."""
    return (level * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


def write(path: Path, samples: np.ndarray | None = None, rate: int = RATE) -> Path:
    """A recording; by default one that its path decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = babble(0.5, zlib.crc32(str(path).encode())) if samples is None else samples
    soundfile.write(path, np.clip(samples, -1, 1), rate)
    return path


def wav(samples: np.ndarray) -> bytes:
    """The same in memory."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, RATE, format="WAV")
    return stream.getvalue()


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    """JSON lines; strings go in as they are."""
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path
