"""The base's audio tower on CUDA: packed projections and fused norms, one graph for each of a few lengths.

Without graphs, launching the tower's kernels would take the host longer than the device needs to run them.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton

from app.engine.cuda import kernels
from app.engine.cuda.packed_weights import pack
from app.models.audio_tower import MARGIN, convolved, pooled
from app.models.features import Clip

_STEP = 500  # mel frames between the captured lengths: 5 s


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    mel: torch.Tensor
    mask: torch.Tensor | None
    hidden: torch.Tensor


class EncoderGraphs:
    """Encodes one clip at a time, padded up to the next captured length, the padding masked."""

    def __init__(self, tower: Any) -> None:
        self._tower = tower
        self._window = 2 * int(tower.embed_positions.weight.shape[0])
        self._layers = [_Layer(layer) for layer in tower.layers]
        self._pool = torch.cuda.graph_pool_handle()
        self._captured: dict[tuple[int, bool], _Captured] = {}

    def warm_up(self) -> None:
        """Capture every length, with a mask and without."""
        for frames in range(self._window, 0, -_STEP):
            self._capture(frames, whole=True)
            self._capture(frames, whole=False)

    def encode(self, clip: Clip) -> torch.Tensor:
        """The tower's output [audio tokens, tower width] on a clip's valid frames."""
        frames = min(-(-clip.frames // _STEP) * _STEP, self._window)
        whole = clip.frames == frames
        captured = self._captured.get((frames, whole)) or self._capture(frames, whole)
        length = convolved(clip.frames)
        mel = torch.empty_like(
            captured.mel, device="cpu", pin_memory=True
        )  # pinned, or the host would wait for the device
        captured.mel.copy_(mel.copy_(clip.mel[None, :, : mel.shape[2]]), non_blocking=True)
        if captured.mask is not None:
            captured.mask.zero_()
            captured.mask[..., length:] = torch.finfo(captured.mask.dtype).min
        captured.graph.replay()
        return captured.hidden[: pooled(length)].clone()

    def _capture(self, frames: int, whole: bool) -> _Captured:
        length, like = convolved(frames), self._tower.conv1.weight
        mel = like.new_zeros(1, like.shape[1], min(frames + MARGIN, self._window))
        mask = None if whole else like.new_zeros(1, 1, 1, length)
        self._run(mel, mask, length)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            hidden = self._run(mel, mask, length)
        self._captured[frames, whole] = _Captured(graph, mel, mask, hidden)
        return self._captured[frames, whole]

    def _run(self, mel: torch.Tensor, mask: torch.Tensor | None, length: int) -> torch.Tensor:
        """As in `app.models.audio_tower`, for one clip: [audio tokens of ``length``, tower width]."""
        tower = self._tower
        x = F.gelu(tower.conv2(F.gelu(tower.conv1(mel))))[0].t()[:length] + tower.embed_positions.weight[:length]
        x, delta = x.contiguous(), None
        if mask is not None:
            mask = mask.expand(1, 1, length, length)
        for layer in self._layers:
            delta = layer.run(x, delta, mask)
        assert delta is not None
        return tower.layer_norm(tower.avg_pooler((x + delta).t()[None])[0].t())  # type: ignore[no-any-return]


class _Layer:
    """One encoder layer over packed q, k and v."""

    def __init__(self, layer: Any) -> None:
        attention = layer.self_attn
        self._heads, self._dim = attention.num_heads, attention.head_dim
        self._norm, self._final_norm = layer.self_attn_layer_norm, layer.final_layer_norm
        self._qkv = pack([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
        none = torch.zeros_like(attention.q_proj.bias)  # k has no bias
        self._bias = torch.cat([attention.q_proj.bias, none, attention.v_proj.bias])
        self._out, self._up, self._down = attention.out_proj, layer.fc1, layer.fc2

    def run(self, x: torch.Tensor, delta: torch.Tensor | None, mask: torch.Tensor | None) -> torch.Tensor:
        """``x`` [length, width] += ``delta`` and the attention's output. Returns the MLP's output."""
        h = _add_norm(x, delta, self._norm)
        qkv = torch.addmm(self._bias, h, self._qkv.t()).view(len(h), 3, self._heads, self._dim)
        query, key, value = qkv.permute(1, 2, 0, 3)[:, None]  # each [1, heads, length, dim]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        attended = attended[0].transpose(0, 1).reshape(len(h), -1)
        h = _add_norm(x, F.linear(attended, self._out.weight, self._out.bias), self._final_norm)
        return F.linear(F.gelu(F.linear(h, self._up.weight, self._up.bias)), self._down.weight, self._down.bias)


def _add_norm(x: torch.Tensor, delta: torch.Tensor | None, norm: torch.nn.LayerNorm) -> torch.Tensor:
    """``x`` [rows, width] += ``delta``; LayerNorm of the sum."""
    rows, width = x.shape
    out = torch.empty_like(x)
    kernels.add_layer_norm[(rows,)](
        x, x if delta is None else delta, norm.weight, norm.bias, out, norm.eps, width, ADD=delta is not None,
        BLOCK=triton.next_power_of_2(width), num_warps=4,
    )  # fmt: skip
    return out
