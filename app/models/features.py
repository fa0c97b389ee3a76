"""From a recording to clips: log-mel features cut to the encoder's window."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from app.audio.cut_receipt import CutReceipt, receipt_of
from app.audio.decode import Limits, Recording, declared_seconds, decode
from app.audio.segments import Cut, Span, cut, is_silent
from app.errors import BadRequest
from app.models.family import family_of_processor


@dataclass(frozen=True)
class Clip:
    """One encoder window of audio.

    ``mel``: float32 [mel bins, window frames], padded as the feature extractor pads.
    ``frames``: valid mel frames. ``tokens``: audio tokens they become. ``key``: names the samples.
    ``joined``: it shares the span of audio tokens in the prompt with the clip before it.
    """

    mel: torch.Tensor
    frames: int
    tokens: int
    key: str
    joined: bool = False


class FeatureExtractor:
    """The processor's own feature extractor, one window at a time. Safe to share by threads."""

    def __init__(self, processor: Any, long_audio: Literal["split", "reject"] = "split") -> None:
        self._extract = processor.feature_extractor
        family = family_of_processor(processor)
        self._tower, self._joins = family.tower, family.joins_windows
        self._long_audio = long_audio
        self.sample_rate: int = self._extract.sampling_rate
        self.hop: int = self._extract.hop_length
        self.window_seconds: float = self._extract.n_samples / self.sample_rate

    def clips(self, recording: Recording) -> list[Clip]:
        """The clips of a recording, in order. Raises BadRequest as `cut` does."""
        return self.clips_of(recording, self.cut(recording))

    def cut(self, recording: Recording, *, transcript: bool = False) -> Cut:
        """Spans of at most one window that together hold all that sounds in the recording. Blocking.

        With ``transcript``, for spans that are transcribed one by one: they overlap where there is no pause to cut in,
        and a silent recording has none.
        Raises BadRequest for audio longer than the window when long audio is to be rejected.
        """
        length, window = len(recording.samples), self._extract.n_samples
        if length > window and self._long_audio == "reject":
            raise BadRequest(
                f"The audio lasts {length / self.sample_rate:.1f} s; this server hears "
                f"{self.window_seconds:g} s at most. Send a shorter clip, or set OVERTONE_LONG_AUDIO=split."
            )
        if length <= window:
            silent = transcript and recording.receipt.silent and is_silent(recording.samples)
            return Cut((), (Span(0, length),)) if silent else Cut((Span(0, length),))
        if self._joins and not transcript:
            spans = [Span(start, min(start + window, length)) for start in range(0, length, window)]
            return Cut(tuple(span for span in spans if self.tokens(-(-(span.end - span.start) // self.hop))))
        return cut(recording.samples, window, transcript=transcript)

    def clips_of(self, recording: Recording, cut: Cut) -> list[Clip]:
        """A clip for each span; its key names exactly its samples."""
        samples, sha256 = recording.samples, recording.sha256
        if cut.spans == (Span(0, len(samples)),):
            return [self.clip(samples, f"{sha256}:0")]
        clips = [self.clip(samples[one.start : one.end], f"{sha256}:{one.start}-{one.end}") for one in cut.spans]
        return [replace(clip, joined=self._joins and index > 0) for index, clip in enumerate(clips)]

    def tokens(self, frames: int) -> int:
        """Audio tokens that so many valid mel frames become."""
        return self._tower.tokens(frames)

    def seconds(self, clip: Clip) -> float:
        """Duration of the clip in seconds, to a frame."""
        return clip.frames * self.hop / self.sample_rate

    def clip(self, samples: npt.NDArray[np.float32], key: str) -> Clip:
        """Mono float32 samples [n], at most a window long, as the tower takes them."""
        frames = -(-len(samples) // self.hop)
        return Clip(self.padded(self._log_mel(samples)), frames, self.tokens(frames), key)

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
    joined: bool

    @classmethod
    def of(cls, clip: Clip) -> "PackedClip":
        """The frames that differ from the last one, and one more."""
        moving = (clip.mel != clip.mel[:, -1:]).any(0).nonzero()
        kept = min(int(moving[-1]) + 2 if len(moving) else 1, clip.mel.shape[1])
        return cls(np.ascontiguousarray(clip.mel[:, :kept].numpy()), clip.frames, clip.tokens, clip.key, clip.joined)

    def unpack(self, features: FeatureExtractor) -> Clip:
        return Clip(features.padded(torch.from_numpy(self.mel)), self.frames, self.tokens, self.key, self.joined)


@dataclass(frozen=True)
class ClipReader:
    """Decodes a recording and cuts it into clips; runs in a process of `app.audio.pool`."""

    features: FeatureExtractor
    limits: Limits

    def __call__(
        self, data: bytes, filename: str | None, transcript: bool = False, declared: bool = False
    ) -> tuple[CutReceipt, list[PackedClip]] | float:
        """The receipt and the clips; ``transcript``: as `FeatureExtractor.cut` has it.

        With ``declared`` nothing is decoded: the result is that of `declared_seconds`.
        Raises AudioError, TooLarge or BadRequest.
        """
        if declared:
            return declared_seconds(data, limits=self.limits, filename=filename)
        recording = decode(data, rate=self.features.sample_rate, limits=self.limits, filename=filename)
        cut = self.features.cut(recording, transcript=transcript)
        receipt = receipt_of(recording.receipt, cut, len(recording.samples), recording.sample_rate)
        return receipt, [PackedClip.of(clip) for clip in self.features.clips_of(recording, cut)]
