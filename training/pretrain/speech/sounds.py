"""Sounds that are not speech: recorded sounds (CC0 and CC-BY-SA packages), generated tones, and silence.

Sources: Debian's `sonic-pi-samples` and `sound-theme-freedesktop`; files that may hold a human
voice are left out. Everything else is computed.
"""

import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from training.pretrain.speech.voices import RATE, Wave, resampled

Curve = npt.NDArray[np.float64]
SAMPLES = Path("/usr/share/sonic-pi/samples")
THEME = Path("/usr/share/sounds/freedesktop/stereo")
# label -> file names (patterns) that sound like it
RECORDED: dict[str, tuple[str, ...]] = {
    "drum": ("bd_*", "drum_heavy*", "drum_snare*", "drum_tom*", "sn_*", "tabla_*", "drum_bass*"),
    "cymbal": ("drum_cymbal*", "drum_splash*", "elec_cymbal*"),
    "guitar": ("guit_*",),
    "bell": (
        "perc_bell*",
        "elec_bell*",
        "elec_chime*",
        "elec_triangle*",
        "bell.oga",
        "drum_cowbell*",
    ),
    "bass": ("bass_dnb*", "bass_hard*", "bass_hit*", "bass_thick*", "bass_trance*", "bass_woodsy*"),
    "phone": ("phone-incoming*",),
    "crow": ("misc_crow*",),
    "music": ("loop_amen*", "loop_breakbeat*", "loop_compus*", "loop_garzul*", "loop_tabla*"),
}
COMPUTED = (
    "beep",
    "beep",
    "rising tones",
    "falling tones",
    "dial tone",
    "busy tone",
    "siren",
    "noise",
)


class Sounds:
    """Draws labelled sounds."""

    def __init__(self) -> None:
        """Read the recorded ones."""
        self.recorded = {
            label: [_read(path) for pattern in patterns for path in _matching(pattern)]
            for label, patterns in RECORDED.items()
        }

    def draw(self, rng: random.Random) -> tuple[str, Wave]:
        """Draw a label and its sound, 0.2 to 6 s."""
        label = rng.choice([*self.recorded, *COMPUTED])
        if label in COMPUTED:
            return label, compute(label, rng)
        sound = rng.choice(self.recorded[label])
        return label, sound[: int(rng.uniform(1, 6) * RATE)]


def compute(label: str, rng: random.Random) -> Wave:
    """Generate a tone or noise of 0.3 to 4 s."""
    seconds = rng.uniform(0.3, 4)
    time = np.arange(int(seconds * RATE)) / RATE
    if label == "noise":
        generator = np.random.default_rng(rng.getrandbits(32))
        return (0.3 * generator.standard_normal(len(time))).astype(np.float32)
    if label in ("dial tone", "busy tone"):
        tone = np.sin(2 * np.pi * 350 * time) + np.sin(2 * np.pi * 440 * time)
        gate = np.ones_like(time) if label == "dial tone" else (time % 1.0 < 0.5)
        return (0.3 * tone * gate).astype(np.float32)
    return (0.5 * np.sin(2 * np.pi * np.cumsum(_pitch(label, time, rng)) / RATE)).astype(np.float32)


def _pitch(label: str, time: Curve, rng: random.Random) -> Curve:
    """Pitch curve in Hz of a beep, a siren, or a run of tones."""
    base = rng.uniform(300, 1500)
    if label == "siren":
        return np.asarray(900 + 400 * np.sin(2 * np.pi * rng.uniform(0.3, 2) * time))
    if label == "beep":
        return np.full_like(time, base)
    steps = np.floor(time / time[-1] * rng.choice((1.99, 2.99)))
    rising = 1 if label == "rising tones" else -1
    return np.asarray(base * rng.uniform(1.15, 1.5) ** (rising * steps))


def silence(rng: random.Random) -> Wave:
    """Nothing, or a faint noise or hum: 0.3 to 6 s."""
    count = int(rng.uniform(0.3, 6) * RATE)
    generator = np.random.default_rng(rng.getrandbits(32))
    noise = generator.standard_normal(count) * 10 ** rng.uniform(-5, -1.8)
    hum = np.sin(2 * np.pi * rng.choice((50, 60)) * np.arange(count) / RATE) * rng.choice((0, 0, 0.01))
    return ((noise + hum) * rng.choice((0, 1, 1, 1))).astype(np.float32)


def _matching(pattern: str) -> list[Path]:
    """Files of both packages that match; a missing package is an error, not an empty class."""
    found = [*SAMPLES.glob(pattern), *THEME.glob(pattern)]
    if not found:
        raise FileNotFoundError(f"no sound matches {pattern}: install the packages of the README")
    return found


def _read(path: Path) -> Wave:
    """Read a sound as mono at `RATE`, at most 8 s."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)[: 8 * rate]
    return resampled(mono, rate)
