"""From a recording to clips: log-mel features cut to the encoder's window."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from app.audio.decode import Recording
from app.errors import BadRequest


@dataclass(frozen=True)
class Clip:
    """One encoder window of audio.

    ``mel``: float32 [mel bins, window frames], padded as the feature extractor pads.
    ``frames``: valid mel frames. ``tokens``: audio tokens they become. ``key``: what was heard.
    """

    mel: torch.Tensor
    frames: int
    tokens: int
    key: str


def audio_tokens(frames: int) -> int:
    """Audio tokens for ``frames`` valid mel frames: a stride-2 convolution, then an average pool by 2."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


class FeatureExtractor:
    """The processor's own Whisper feature extractor, one window at a time. Safe to share by threads."""

    def __init__(self, processor: Any, long_audio: Literal["split", "reject"] = "split") -> None:
        self._extract = processor.feature_extractor
        self._long_audio = long_audio
        self.sample_rate: int = self._extract.sampling_rate
        self.hop: int = self._extract.hop_length
        self.window_seconds: float = self._extract.n_samples / self.sample_rate

    def clips(self, recording: Recording) -> list[Clip]:
        """Consecutive clips of at most one window that together hear the whole recording.

        Raises BadRequest for audio longer than the window when long audio is to be rejected.
        """
        windows = self._windows(recording.samples)
        if len(windows) > 1 and self._long_audio == "reject":
            raise BadRequest(
                f"The audio lasts {len(recording.samples) / self.sample_rate:.1f} s; this server hears "
                f"{self.window_seconds:g} s at most. Send a shorter clip, or set OVERTONE_LONG_AUDIO=split."
            )
        return [self.clip(window, f"{recording.sha256}:{index}") for index, window in enumerate(windows)]

    def seconds(self, clip: Clip) -> float:
        """How long a clip lasts, to a frame."""
        return clip.frames * self.hop / self.sample_rate

    def _windows(self, samples: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """Cut evenly, so that the last clip is never too short to be encoded."""
        count = max(1, -(-len(samples) // self._extract.n_samples))
        return np.array_split(samples, count)

    def clip(self, samples: npt.NDArray[np.float32], key: str) -> Clip:
        """Mono float32 samples [n], at most a window long, as the tower takes them."""
        features = self._extract(
            samples,
            sampling_rate=self.sample_rate,
            return_attention_mask=True,
            padding="max_length",
            return_tensors="pt",
        )
        frames = int(features["attention_mask"].sum())
        return Clip(features["input_features"][0], frames, audio_tokens(frames), key)
