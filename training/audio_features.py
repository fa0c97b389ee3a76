"""Clips of recordings, and the frozen tower's output for them, which is kept on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from app.audio.decode import Limits
from app.audio.segments import Cut
from app.models.features import Clip, FeatureExtractor
from app.models.layout import audio_tower
from app.models.loading import LoadedModel
from training.data.decoding import decode_sound
from training.data.rows import Sound
from training.events import TrainingFailed
from training.memory import batches_that_fit
from training.workers import Workers

TOWER_BATCH = 8  # clips encoded together


@dataclass(frozen=True)
class ClipFeatures:
    """One window of one recording. ``tokens``: audio tokens it takes in the prompt. ``joined``: as `Clip.joined`."""

    sound: Sound
    index: int
    key: str
    frames: int
    tokens: int
    joined: bool


class AudioFeatures:
    """Decodes recordings and encodes their clips, each once.

    With a frozen tower its output (before the projector) is cached under ``cache``, keyed by the clip's
    audio and by the model, so that later epochs and later runs don't encode at all. A tower that is being trained
    encodes at every use.
    """

    def __init__(self, loaded: LoadedModel, limits: Limits, cache: Path, *, tower_trained: bool = False) -> None:
        self.features = FeatureExtractor(loaded.processor)
        self._run = loaded.family.tower.run
        self._tower = audio_tower(loaded.model)
        self._limits = limits
        self._tower_trained = tower_trained
        self._cache = cache / sha256(f"{loaded.spec.fingerprint}:{loaded.dtype}".encode()).hexdigest()[:16]
        self._clips: dict[Sound, tuple[ClipFeatures, ...]] = {}
        self._cuts: dict[Sound, Cut] = {}

    def extract(self, sounds: Sequence[Sound]) -> list[tuple[ClipFeatures, ...]]:
        """The clips of each recording, encoded and cached where the tower is frozen.

        Raises AudioError or TooLarge for a recording that the gate would have refused.
        """
        pending: list[Clip] = []
        for sound in dict.fromkeys(sounds):
            if sound in self._clips:
                continue
            clips = self.clips(sound)
            self._clips[sound] = tuple(ClipFeatures(sound, index, *facts) for index, facts in enumerate(_facts(clips)))
            pending += clips
            if len(pending) >= 8 * TOWER_BATCH:
                self._encode(pending)
                pending = []
        self._encode(pending)
        return [self._clips[sound] for sound in sounds]

    def extract_together(self, sounds: Sequence[Sound], workers: Workers) -> None:
        """Each process extracts a part of the recordings; all know all clips afterwards.

        Raises TrainingFailed where a process cannot read what another wrote into the cache.
        """
        if workers.count == 1:
            return
        distinct = list(dict.fromkeys(sounds))
        found = [_facts(clips) for clips in self.extract(workers.share(distinct))]
        for rank, known in enumerate(workers.gather(found)):
            for sound, clips in zip(distinct[rank :: workers.count], known, strict=True):
                self._clips[sound] = tuple(ClipFeatures(sound, index, *clip) for index, clip in enumerate(clips))
        absent = not self._tower_trained and not all(
            self._file(clip.key).is_file() for sound in distinct for clip in self._clips[sound]
        )
        if workers.most(absent):
            raise TrainingFailed(
                f"A process cannot see what another has written to {self._cache}: on several machines --work must lie "
                "in a folder that they share."
            )

    def clips(self, sound: Sound) -> list[Clip]:
        """The clips of one recording with their features."""
        recording = decode_sound(sound, rate=self.features.sample_rate, limits=self._limits)
        if sound not in self._cuts:
            self._cuts[sound] = self.features.cut(recording)
        return self.features.clips_of(recording, self._cuts[sound])

    def tower_output(self, clips: Sequence[ClipFeatures]) -> list[torch.Tensor]:
        """The tower's output of each clip, [audio tokens, tower width]; with gradients where it is trained."""
        if not self._tower_trained:
            return [load_file(self._file(clip.key))["hidden"] for clip in clips]
        return self._through_tower([self.clips(clip.sound)[clip.index] for clip in clips])

    def silence(self, clips: Sequence[ClipFeatures]) -> list[torch.Tensor]:
        """The tower's output of silence as long as each clip."""
        samples = [np.zeros(clip.frames * self.features.hop, np.float32) for clip in clips]
        silent = [self.features.clip(wave, "silence") for wave in samples]
        return self._through_tower(silent)

    @torch.no_grad()
    def _encode(self, clips: Sequence[Clip]) -> None:
        """Fill the cache, clips of like length together."""
        missing = {clip.key: clip for clip in clips if not self._file(clip.key).is_file()}
        if self._tower_trained or not missing:
            return
        self._cache.mkdir(parents=True, exist_ok=True)
        ordered = sorted(missing.values(), key=lambda clip: clip.frames)
        for batch, hidden in batches_that_fit(ordered, TOWER_BATCH, self._through_tower):
            for clip, output in zip(batch, hidden, strict=True):
                target = self._file(clip.key)
                temporary = target.with_suffix(f".{uuid4().hex}.writing")  # another process may write it as well
                save_file({"hidden": output.contiguous().cpu()}, temporary)
                temporary.replace(target)  # a run that is killed leaves no half entry

    def _through_tower(self, clips: Sequence[Clip]) -> list[torch.Tensor]:
        return self._run(self._tower, [clip.mel for clip in clips], [clip.frames for clip in clips])

    def _file(self, key: str) -> Path:
        return self._cache / f"{key.replace(':', '-')}.safetensors"


def _facts(clips: Sequence[Clip | ClipFeatures]) -> list[tuple[str, int, int, bool]]:
    """Key, frames, tokens and `Clip.joined` of each clip."""
    return [(clip.key, clip.frames, clip.tokens, clip.joined) for clip in clips]
