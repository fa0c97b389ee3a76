"""From a recording to clips: log-mel features cut to the encoder's window."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from app.audio.decode import Limits, Receipt, Recording, decode
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
        frames = -(-len(samples) // self.hop)
        return Clip(self.padded(self._log_mel(samples)), frames, audio_tokens(frames), key)

    def padded(self, mel: torch.Tensor) -> torch.Tensor:
        """``mel`` [mel bins, frames] to the whole window. Its last frame is silent, and so are all behind it."""
        missing = self._extract.nb_max_frames - mel.shape[1]
        return torch.cat([mel, mel[:, -1:].expand(-1, missing)], dim=1) if missing else mel

    def _log_mel(self, samples: npt.NDArray[np.float32]) -> torch.Tensor:
        """Frames [mel bins, frames] up to the first that holds nothing but silence, or to the end of the window.

        The same numbers as the extractor's over the whole window, which takes ten times as long for 3 s of 30.
        """
        size = min(len(samples) + 2 * self._extract.n_fft, self._extract.n_samples)
        size = self.hop * -(-size // self.hop)
        silence = np.zeros(size - len(samples), np.float32)
        features = self._extract(
            np.concatenate([samples, silence]), sampling_rate=self.sample_rate, padding=False, return_tensors="pt"
        )
        mel: torch.Tensor = features["input_features"][0]
        return mel


@dataclass(frozen=True)
class PackedClip:
    """A clip on its way between processes: ``mel`` float32 [mel bins, frames] without the silence behind it."""

    mel: npt.NDArray[np.float32]
    frames: int
    tokens: int
    key: str

    @classmethod
    def of(cls, clip: Clip) -> "PackedClip":
        """The frames that differ from the last one, and one more."""
        moving = (clip.mel != clip.mel[:, -1:]).any(0).nonzero()
        kept = min(int(moving[-1]) + 2 if len(moving) else 1, clip.mel.shape[1])
        return cls(np.ascontiguousarray(clip.mel[:, :kept].numpy()), clip.frames, clip.tokens, clip.key)

    def unpack(self, features: FeatureExtractor) -> Clip:
        return Clip(features.padded(torch.from_numpy(self.mel)), self.frames, self.tokens, self.key)


@dataclass(frozen=True)
class ClipReader:
    """Decodes a recording and cuts it into clips; runs in a process of `app.audio.pool`."""

    features: FeatureExtractor
    limits: Limits

    def __call__(self, data: bytes, filename: str | None) -> tuple[Receipt, list[PackedClip]]:
        """The receipt and the clips. Raises AudioError, TooLarge or BadRequest."""
        recording = decode(data, rate=self.features.sample_rate, limits=self.limits, filename=filename)
        clips = self.features.clips(recording)
        used = len(recording.samples) / recording.sample_rate
        return replace(recording.receipt, seconds_used=round(used, 3)), [PackedClip.of(clip) for clip in clips]
