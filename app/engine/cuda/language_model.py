"""The language model as one straight pass of large products and fused kernels, over transformers' own weights.

transformers' modules stay the model: their parameters become views of the packed matrices here, so no weight
is held twice, and PEFT, fingerprints and classification read the same parameters as before. The pass writes
into buffers that are allocated once, so it can be captured as a CUDA graph.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton

from app.engine.cuda import attention_kernels, kernels, lora_kernels
from app.engine.cuda.linear import MOST_PARTS, SKINNY, Matrix, parts_of, product
from app.engine.cuda.packed_weights import pack_layers, scratch_of
from app.engine.kv_cache.paged_cache import PagedCache
from app.engine.lora.slots import COLUMNS
from app.engine.lora.stacked_weights import Reach, StackedWeights
from app.models import layout
from app.models.family import PACKED_PROJECTIONS as GROUPS
from app.models.family import head_dim

TILE = 128  # rows of one sequence per program of the prefill attention
_PROGRAMS = 512  # of the decode attention: about as many as keep the memory busy
_MOST_SPLITS = 16


@dataclass(frozen=True)
class Layer:
    """One decoder layer's weights: ``qkv`` [q + k + v, hidden], ``gate_up`` [2 · intermediate, hidden]."""

    input_norm: torch.Tensor
    qkv: Matrix
    bias: torch.Tensor
    out: Matrix
    post_norm: torch.Tensor
    gate_up: Matrix
    down: Matrix


@dataclass(frozen=True)
class Rows:
    """Packed rows of a pass, as int32 on the device: each row's batch index and position (-1: padding).

    ``decoding``: positions of the first rows again, -1 where one is not a decoding sequence; None without such.
    ``tiles`` [tiles, 4] (first row, rows, position, batch index) of the prompts behind them; None without prompts.
    """

    batch: torch.Tensor
    positions: torch.Tensor
    decoding: torch.Tensor | None
    tiles: torch.Tensor | None


class CudaLanguageModel:
    """Weights, buffers and the pass.

    Upper limits: ``rows`` of a pass, ``batch`` of decoding sequences, ``positions`` of a context.
    """

    def __init__(
        self,
        model: Any,
        cache: PagedCache,
        stacks: StackedWeights,
        rows: int,
        batch: int,
        positions: int,
    ) -> None:
        config = model.config.get_text_config()
        language_model = layout.language_model(model)
        self._cache, self.stacks = cache, stacks
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.dim = head_dim(config)
        self.width, self.inner = config.hidden_size, config.intermediate_size
        self._eps = config.rms_norm_eps
        scratch = scratch_of(model, cache.keys)
        self._layers = [_pack(layer, scratch) for layer in language_model.layers]
        self._norm = language_model.norm.weight
        self._lm_head = pack_layers(model, ["lm_head"], scratch)
        if cache.keys.is_cuda:
            torch.cuda.empty_cache()  # the parts are free now that they are packed: return them to CUDA
        self._group = _heads_together(self.heads, self.kv_heads)
        frequency = language_model.rotary_emb.inv_freq.float()
        angles = torch.arange(positions, device=frequency.device)[:, None] * frequency
        self._cos, self._sin = angles.cos(), angles.sin()
        device, dtype = cache.keys.device, cache.keys.dtype
        self._device = device

        def buffer(*shape: int, kind: torch.dtype = dtype) -> torch.Tensor:
            return torch.zeros(shape, device=device, dtype=kind)

        self.x, self.h, self._delta = (buffer(rows, self.width) for _ in range(3))
        self._qkv = buffer(rows, (self.heads + 2 * self.kv_heads) * self.dim)
        self._q, self._attended = (buffer(rows, self.heads * self.dim) for _ in range(2))
        self._both, self._act = buffer(rows, 2 * self.inner), buffer(rows, self.inner)
        self.logits = buffer(batch, self._lm_head.outputs)
        most_parts = max(_splits(n, self.heads) * n for n in range(1, batch + 1)) * self.heads
        self._parts = buffer(most_parts, self.dim, kind=torch.float32)
        self._sums = buffer(MOST_PARTS * SKINNY * self.width, kind=torch.float32)
        self._stats = buffer(most_parts, 2, kind=torch.float32)

    def run(self, rows: Rows, tables: torch.Tensor, reach: Reach | None) -> None:
        """From embeddings in ``x`` to normed hidden states in ``h``; keys and values go to the cache.

        ``tables`` [batch, blocks], int32: block tables by batch index. ``reach``: of the rows; None without adapters.
        """
        n = rows.batch.shape[0]
        h, qkv, attended = self.h[:n], self._qkv[:n], self._attended[:n]
        both, act = self._both[:n], self._act[:n]
        norms = [layer.input_norm for layer in self._layers[1:]] + [self._norm]
        self._add_norm(rows, self._layers[0].input_norm, None)
        for index, layer in enumerate(self._layers):
            z = self._project("qkv", index, h, layer.qkv, qkv, rows, reach)
            self._rope_write(rows, index, layer.bias, tables, z)
            self._attend(rows, index, tables)
            delta = self._delta_of(attended, layer.out)
            z = self._project("out", index, attended, layer.out, delta, rows, reach)
            self._add_norm(rows, layer.post_norm, delta, index, z, "out")
            z = self._project("mlp", index, h, layer.gate_up, both, rows, reach)
            self._silu_mul(rows, index, z)
            delta = self._delta_of(act, layer.down)
            z = self._project("down", index, act, layer.down, delta, rows, reach)
            self._add_norm(rows, norms[index], delta, index, z, "down")

    def lm_head(
        self, hidden: torch.Tensor, batch: torch.Tensor, out: torch.Tensor, reach: Reach | None
    ) -> torch.Tensor:
        """Logits [rows, vocabulary] of ``hidden`` [rows, hidden size], into ``out``."""
        a = self._a("head", 0, reach)
        z = product(hidden, self._lm_head, out, a)
        if z is not None:
            self._expand(out, z, self.stacks.groups["head"].b[0][0], batch, None, None)
        return out

    def warm_up_lm_head(self) -> None:
        """Compile the kernels for adapters on lm_head; their columns are allocated when the first is loaded."""
        b = self.x.new_zeros(COLUMNS, self._lm_head.outputs)
        padding = torch.full((1,), self.stacks.padding_index, device=self._device, dtype=torch.int32)
        self._expand(self.logits[:1], b.new_zeros(1, COLUMNS), b, padding, None, None)

    def _a(self, name: str, index: int, reach: Reach | None) -> torch.Tensor | None:
        """A [columns · projections, in] of one layer of a group, up to ``reach``; None where ``reach`` has none."""
        held = self.stacks.groups.get(name) if reach and reach.reads(name) else None
        return None if held is None or reach is None else held.a[index, : reach.columns].flatten(0, 1)

    def _project(
        self, name: str, index: int, x: torch.Tensor, matrix: Matrix, out: torch.Tensor, rows: Rows, reach: Reach | None
    ) -> torch.Tensor | None:
        """``out`` = x Wᵀ, and z = x Aᵀ of the group. A pass with prompts adds z B here; without, the next kernel does.

        ``out`` may be parts that are still to be summed. Returns z [rows, columns · projections] unless it is added.
        """
        z = product(x, matrix, out, self._a(name, index, reach))
        if z is None or reach is None or rows.tiles is None:
            return z
        target, start = out[0] if out.dim() == 3 else out, 0
        for place, (projection, b) in enumerate(zip(GROUPS[name], self.stacks.groups[name].b, strict=True)):
            width = b.shape[2]
            if projection in reach.projections:
                part = target[:, start : start + width]
                self._expand(part, z, b[index], rows.batch, rows.tiles, rows.decoding, len(GROUPS[name]), place)
            start += width
        return None

    def _expand(
        self,
        out: torch.Tensor,
        z: torch.Tensor,
        b: torch.Tensor,
        batch: torch.Tensor,
        tiles: torch.Tensor | None,
        decoding: torch.Tensor | None,
        places: int = 1,
        place: int = 0,
    ) -> None:
        """``out`` [rows, width] += z B of one projection, B [columns, width], over each row's own columns.

        Rows are those of ``tiles`` and the first, which decode; without tiles all rows, one by one.
        """
        width, stacks, block = b.shape[1], self.stacks, 128
        in_tiles = 0 if tiles is None else tiles.shape[0]
        singles = out.shape[0] if tiles is None else 0 if decoding is None else decoding.shape[0]
        lora_kernels.expand[(in_tiles + singles, triton.cdiv(width, block))](
            out, z, b, batch if tiles is None else tiles, batch if decoding is None else decoding, batch,
            stacks.lora_weights, stacks.ranges, in_tiles, out.stride(0), z.shape[1], stacks.lora_weights.shape[1],
            width, PLACES=places, PLACE=place, ROWS=64 if in_tiles else 16, COLUMNS=16, BLOCK=block,
            DECODING=decoding is not None, num_warps=4,
        )  # fmt: skip

    def _lora(self, name: str, index: int, z: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Arguments of a kernel for a group: z, each B, weights, ranges; any tensors where there is nothing to add."""
        stacks = self.stacks
        if z is None:
            return (self.x, *(self.x for _ in GROUPS[name]), stacks.lora_weights, stacks.ranges)
        return (z, *(b[index] for b in stacks.groups[name].b), stacks.lora_weights, stacks.ranges)

    def _strides(self, name: str, z: torch.Tensor | None) -> tuple[int, int]:
        """Columns of z, and of the LoRA weights."""
        return 0 if z is None else z.shape[1] // len(GROUPS[name]), self.stacks.lora_weights.shape[1]

    def _delta_of(self, x: torch.Tensor, matrix: Matrix) -> torch.Tensor:
        """Output of a product that is added to ``x``: [rows, hidden], or [parts, rows, hidden] to be summed."""
        n, parts = x.shape[0], parts_of(x, matrix)
        if parts == 1:
            return self._delta[:n]
        return self._sums[: parts * n * self.width].view(parts, n, self.width)

    def _add_norm(
        self,
        rows: Rows,
        weight: torch.Tensor,
        delta: torch.Tensor | None,
        index: int = 0,
        z: torch.Tensor | None = None,
        name: str = "out",
    ) -> None:
        """``x`` += ``delta`` and what LoRA adds to it; ``h`` = RMSNorm of the sum."""
        n = rows.batch.shape[0]
        parts = 0 if delta is None else delta.shape[0] if delta.dim() == 3 else 1
        kernels.add_norm[(n,)](
            self.x, self.x if delta is None else delta, weight, self.h, rows.batch, *self._lora(name, index, z),
            self._eps, self.width, *self._strides(name, z), n * self.width, PARTS=parts,
            BLOCK=triton.next_power_of_2(self.width), LORA=z is not None, LORA_BLOCK=4, num_warps=8,
            **self._early(rows),
        )  # fmt: skip

    def _rope_write(
        self, rows: Rows, index: int, bias: torch.Tensor, tables: torch.Tensor, z: torch.Tensor | None
    ) -> None:
        """Bias and rotary embedding; queries to ``_q``, keys and values to their blocks."""
        group = self._group if rows.tiles is not None else min(2, self._group)  # few rows: more programs
        kernels.rope_write[(rows.batch.shape[0], (self.heads + 2 * self.kv_heads) // group)](
            self._qkv, bias, self._cos, self._sin, rows.positions, rows.batch, tables, self._q, self._cache.keys[index],
            self._cache.values[index], *self._lora("qkv", index, z), tables.shape[1], *self._strides("qkv", z),
            HEADS=self.heads, KV_HEADS=self.kv_heads, DIM=self.dim, PAGE=self._cache.block_size, GROUP=group,
            LORA=z is not None, LORA_BLOCK=8, num_warps=4 if group > 2 else 1, **self._early(rows),
        )  # fmt: skip

    def _attend(self, rows: Rows, index: int, tables: torch.Tensor) -> None:
        """Attention of ``_q`` over the blocks of layer ``index``, into ``_attended``."""
        scale, width = self.dim**-0.5, tables.shape[1]
        keys, values = self._cache.keys[index], self._cache.values[index]
        shape = {"HEADS": self.heads, "KV_HEADS": self.kv_heads, "DIM": self.dim, "PAGE": self._cache.block_size}
        if rows.decoding is not None:
            n = rows.decoding.shape[0]
            splits = _splits(n, self.heads)
            attention_kernels.attend_decode[(n, self.heads, splits)](
                self._q, keys, values, rows.decoding, rows.batch, tables, self._parts, self._stats, self._attended,
                scale, width, **shape, SPLITS=splits, BLOCK=min(32, self._cache.block_size), STAGES=2, num_warps=2,
                **self._early(rows),
            )  # fmt: skip
            if splits > 1:
                attention_kernels.join_splits[(n * self.heads,)](
                    self._parts, self._stats, self._attended, DIM=self.dim, SPLITS=splits, num_warps=1,
                    **self._early(rows),
                )  # fmt: skip
        if rows.tiles is not None:  # afterwards: the first of its rows may have been overwritten with zeros
            attention_kernels.attend_prefill[(rows.tiles.shape[0], self.heads)](
                self._q, keys, values, rows.tiles, tables, self._attended, scale, width, **shape,
                ROWS=TILE, BLOCK=min(64, self._cache.block_size), STAGES=3, num_warps=TILE // 16,
            )  # fmt: skip

    def _early(self, rows: Rows) -> dict[str, bool]:
        return kernels.early(rows.batch.shape[0], self._device)

    def _silu_mul(self, rows: Rows, index: int, z: torch.Tensor | None) -> None:
        block = 1024
        kernels.silu_mul[(rows.batch.shape[0], triton.cdiv(self.inner, block))](
            self._both, self._act, rows.batch, *self._lora("mlp", index, z), self.inner, *self._strides("mlp", z),
            BLOCK=block, LORA=z is not None, LORA_BLOCK=8, num_warps=4, **self._early(rows),
        )  # fmt: skip


def _heads_together(heads: int, kv_heads: int) -> int:
    """Heads per program: a power of two that divides both numbers, at most 8."""
    return next(group for group in (8, 4, 2, 1) if heads % group == 0 and kv_heads % group == 0)


def _splits(batch: int, heads: int) -> int:
    """Number of parts that the decode attention splits each context into, a power of two."""
    return min(_MOST_SPLITS, int(triton.next_power_of_2(max(1, _PROGRAMS // (batch * heads)))))


def _pack(layer: Any, scratch: torch.Tensor | None) -> Layer:
    """The weights of a transformers layer; projections of the same input are packed and become views of the pack."""
    attention = layer.self_attn
    biases = [getattr(attention, name).bias for name in ("q_proj", "k_proj", "v_proj")]
    return Layer(
        layer.input_layernorm.weight,
        pack_layers(layer, GROUPS["qkv"], scratch),
        torch.cat(biases),
        pack_layers(layer, GROUPS["out"], scratch),
        layer.post_attention_layernorm.weight,
        pack_layers(layer, GROUPS["mlp"], scratch),
        pack_layers(layer, GROUPS["down"], scratch),
    )
