"""Do recordings lie where the base model is at home? Distances between embeddings of its audio tower.

The reference is a handful of recordings of people speaking, shipped in `reference/`. The distance is
Mahalanobis' with a diagonal covariance, shrunk towards its mean because there are few clips, over the square root
of the width; what counts as far follows from the reference's own distances, each clip left out in turn, so it
needs no tuning to a model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from training.audio_features import AudioFeatures
from training.data.rows import Sound

Embed = Callable[[Sequence[Sound]], npt.NDArray[Any]]  # embeddings [recordings, width]
FOLDER = Path(__file__).parent / "reference"
SHRINK = 0.2
# With overtone-tiny the reference's own 99 % quantile is 1.70. Other human clips lie at 0.8-1.5, with noise at
# 5 dB SNR up to 1.3, synthetic voices at 1.6-2.5; music at 3.1-3.6, randn noise at 3.5-3.8, sines at 3.8-4.3.
MARGIN = 1.6  # 1.6 × 1.70 = 2.72


@dataclass(frozen=True)
class Reference:
    """Mean and variance [width] of the reference embeddings; ``limit``: the distance that counts as far."""

    mean: npt.NDArray[Any]
    variance: npt.NDArray[Any]
    limit: float

    def distances(self, embeddings: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Of embeddings [n, width], [n]."""
        return _distances(embeddings, self.mean, self.variance)


def tower_embedding(audio_features: AudioFeatures) -> Embed:
    """Means of the tower's output over whole recordings, kept in the cache of ``audio_features`` for training."""

    @torch.no_grad()
    def embed(sounds: Sequence[Sound]) -> npt.NDArray[Any]:
        return np.stack(
            [
                torch.cat(audio_features.tower_output(clips)).float().mean(0).cpu().numpy()
                for clips in audio_features.extract(sounds)
            ]
        )

    return embed


def shipped() -> list[Sound]:
    """The reference recordings."""
    return [Sound(path.name, path) for path in sorted(FOLDER.glob("*.flac"))]


def reference_of(embeddings: npt.NDArray[Any]) -> Reference:
    """The reference that embeddings [clips, width] make; two clips at least."""
    own = [
        _distances(embeddings[index : index + 1], *_spread(np.delete(embeddings, index, axis=0)))[0]
        for index in range(len(embeddings))
    ]
    return Reference(*_spread(embeddings), limit=MARGIN * float(np.quantile(own, 0.99)))


def _spread(embeddings: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    variance = embeddings.var(axis=0)
    return embeddings.mean(axis=0), (1 - SHRINK) * variance + SHRINK * variance.mean() + 1e-12


def _distances(embeddings: npt.NDArray[Any], mean: npt.NDArray[Any], variance: npt.NDArray[Any]) -> npt.NDArray[Any]:
    distances: npt.NDArray[Any] = np.sqrt(((embeddings - mean) ** 2 / variance).mean(axis=1))
    return distances
