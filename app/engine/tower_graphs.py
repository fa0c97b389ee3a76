"""The base's audio tower as CUDA graphs, one for each of a few lengths: launched one by one, its kernels would
take the host longer than the device."""

from typing import Any

import torch

from app.model.features import Clip
from app.model.tower import MARGIN, convolved, pass_through, pooled

_STEP = 500  # mel frames between the captured lengths: 5 s


class TowerGraphs:
    """Encodes one clip at a time, padded up to the next captured length, the padding masked."""

    def __init__(self, tower: Any) -> None:
        self._tower = tower
        self._like: torch.Tensor = tower.conv1.weight
        self._window = 2 * int(tower.embed_positions.weight.shape[0])
        self._pool = torch.cuda.graph_pool_handle()
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def warm_up(self) -> None:
        for frames in range(self._window, 0, -_STEP):
            self._capture(frames)

    def hear(self, clip: Clip) -> torch.Tensor:
        """The tower's output [audio tokens, tower width] on a clip's valid frames."""
        frames = min(-(-clip.frames // _STEP) * _STEP, self._window)
        graph, mel, mask, hidden = self._captured.get(frames) or self._capture(frames)
        length = convolved(clip.frames)
        mel.copy_(clip.mel[None, :, : mel.shape[2]], non_blocking=True)
        mask.zero_()
        mask[..., length:] = torch.finfo(mask.dtype).min
        graph.replay()
        return hidden[0, : pooled(length)].clone()

    def _capture(self, frames: int) -> tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor, torch.Tensor]:
        length = convolved(frames)
        bins = self._like.shape[1]
        mel = self._like.new_zeros(1, bins, min(frames + MARGIN, self._window))
        mask = self._like.new_zeros(1, 1, 1, length)

        def run() -> torch.Tensor:
            return pass_through(self._tower, mel, length, mask.expand(1, 1, length, length))

        run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            hidden = run()
        self._captured[frames] = graph, mel, mask, hidden
        return self._captured[frames]
