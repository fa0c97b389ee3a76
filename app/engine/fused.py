"""The language model as one straight pass of large products and fused kernels, over transformers' own weights.

transformers' modules stay the model: their parameters become views of the joined matrices here, so nothing
is held twice, and PEFT, fingerprints and the classification path see what they always saw. The pass writes
into buffers made once, so it allocates nothing and can be captured as a CUDA graph.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton

from app.engine import attention_kernels, kernels, lora_kernels
from app.engine.joined import joined
from app.engine.kv_cache import PagedCache
from app.engine.products import MOST_PARTS, SKINNY, Matrix, parts_of, product
from app.engine.slots import COLUMNS
from app.engine.stacks import GROUPS, LoraStacks, Reach

TILE = 128  # rows of one sequence that a program of the prefill attention takes
_PROGRAMS = 512  # of the decode attention, about what keeps the memory busy
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
    """Packed rows of a pass, as int32 on the device: each row's seat and position (-1: padding).

    ``decoding``: positions of the first rows again, -1 where one is not a decoding sequence; None without such.
    ``tiles`` [tiles, 4] (first row, rows, position, seat) of the prompts behind them; None without prompts.
    """

    seats: torch.Tensor
    positions: torch.Tensor
    decoding: torch.Tensor | None
    tiles: torch.Tensor | None


class FusedModel:
    """Weights, buffers and the pass.

    ``rows``: the most of a pass; ``batch``: the most that decode; ``positions``: the longest context;
    ``quantise``: few rows read float8 copies of the weights.
    """

    def __init__(
        self,
        model: Any,
        cache: PagedCache,
        stacks: LoraStacks,
        rows: int,
        batch: int,
        positions: int,
        quantise: bool = False,
    ) -> None:
        config = model.config.get_text_config()
        language_model = model.model.language_model
        self._cache, self.stacks = cache, stacks
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.width, self.inner = config.hidden_size, config.intermediate_size
        self._eps = config.rms_norm_eps
        self._layers = [_join(layer, quantise) for layer in language_model.layers]
        self._norm = language_model.norm.weight
        self._head = Matrix.of(model.lm_head.weight, quantise)
        if cache.keys.is_cuda:
            torch.cuda.empty_cache()  # the parts that were joined are free: let whatever is not PyTorch's have them too
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
        self.logits = buffer(batch, self._head.weight.shape[0])
        most_parts = max(_splits(n, self.heads) * n for n in range(1, batch + 1)) * self.heads
        self._parts = buffer(most_parts, self.dim, kind=torch.float32)
        self._sums = buffer(MOST_PARTS * SKINNY * self.width, kind=torch.float32)
        self._stats = buffer(most_parts, 2, kind=torch.float32)

    def run(self, rows: Rows, tables: torch.Tensor, reach: Reach | None) -> None:
        """From embeddings in ``x`` to normed hidden states in ``h``; keys and values go to the cache.

        ``tables``: pages of each seat [seats, pages], int32. ``reach``: of the rows' adapters; None without any.
        """
        n = rows.seats.shape[0]
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

    def head(self, hidden: torch.Tensor, seats: torch.Tensor, out: torch.Tensor, reach: Reach | None) -> torch.Tensor:
        """Logits [rows, vocabulary] of ``hidden`` [rows, hidden size], into ``out``."""
        a = self._a("head", 0, reach)
        z = product(hidden, self._head, out, a)
        if z is not None:
            self._expand(out, z, self.stacks.groups["head"].b[0][0], seats, None, None)
        return out

    def warm_up_head(self) -> None:
        """Compile what an adapter on the head needs beyond others; columns for it are allocated when one comes."""
        b = self._head.weight.new_zeros(COLUMNS, self._head.weight.shape[0])
        nobody = torch.full((1,), self.stacks.nobody, device=self._device, dtype=torch.int32)
        self._expand(self.logits[:1], b.new_zeros(1, COLUMNS), b, nobody, None, None)

    def _a(self, name: str, index: int, reach: Reach | None) -> torch.Tensor | None:
        """A [columns · projections, in] of one layer of a group, as far as ``reach`` goes; None where it does not."""
        held = self.stacks.groups.get(name) if reach and reach.reads(name) else None
        return None if held is None or reach is None else held.a[index, : reach.columns].flatten(0, 1)

    def _project(
        self, name: str, index: int, x: torch.Tensor, matrix: Matrix, out: torch.Tensor, rows: Rows, reach: Reach | None
    ) -> torch.Tensor | None:
        """``out`` = x Wᵀ, and z = x Aᵀ of the group beside it. Prefill adds z B here; for decode the next kernel does.

        ``out`` may be parts still to be summed. Returns z [rows, columns · projections] where it is still to be added.
        """
        z = product(x, matrix, out, self._a(name, index, reach))
        if z is None or reach is None or rows.tiles is None:
            return z
        target, start = out[0] if out.dim() == 3 else out, 0
        for place, (projection, b) in enumerate(zip(GROUPS[name], self.stacks.groups[name].b, strict=True)):
            width = b.shape[2]
            if projection in reach.projections:
                part = target[:, start : start + width]
                self._expand(part, z, b[index], rows.seats, rows.tiles, rows.decoding, len(GROUPS[name]), place)
            start += width
        return None

    def _expand(
        self,
        out: torch.Tensor,
        z: torch.Tensor,
        b: torch.Tensor,
        seats: torch.Tensor,
        tiles: torch.Tensor | None,
        decoding: torch.Tensor | None,
        places: int = 1,
        place: int = 0,
    ) -> None:
        """``out`` [rows, width] += what one projection's B [columns, width] makes of each row's own columns of z.

        Rows are those of ``tiles`` and the first, which decode; without tiles all, each by itself.
        """
        width, stacks, block = b.shape[1], self.stacks, 128
        in_tiles = 0 if tiles is None else tiles.shape[0]
        singles = out.shape[0] if tiles is None else 0 if decoding is None else decoding.shape[0]
        lora_kernels.expand[(in_tiles + singles, triton.cdiv(width, block))](
            out, z, b, seats if tiles is None else tiles, seats if decoding is None else decoding, seats,
            stacks.shares, stacks.ranges, in_tiles, out.stride(0), z.shape[1], stacks.shares.shape[1], width,
            PLACES=places, PLACE=place, ROWS=64 if in_tiles else 16, COLUMNS=16, BLOCK=block,
            DECODING=decoding is not None, num_warps=4,
        )  # fmt: skip

    def _lora(self, name: str, index: int, z: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """What a kernel wants of a group: z, each B, shares and ranges; anything where there is nothing to add."""
        stacks = self.stacks
        if z is None:
            return (self.x, *(self.x for _ in GROUPS[name]), stacks.shares, stacks.ranges)
        return (z, *(b[index] for b in stacks.groups[name].b), stacks.shares, stacks.ranges)

    def _strides(self, name: str, z: torch.Tensor | None) -> tuple[int, int]:
        """Columns of z, and of the shares."""
        return 0 if z is None else z.shape[1] // len(GROUPS[name]), self.stacks.shares.shape[1]

    def _delta_of(self, x: torch.Tensor, matrix: Matrix) -> torch.Tensor:
        """Where a product that is to be added to ``x`` goes: [rows, hidden], or [parts, rows, hidden] to be summed."""
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
        n = rows.seats.shape[0]
        parts = 0 if delta is None else delta.shape[0] if delta.dim() == 3 else 1
        kernels.add_norm[(n,)](
            self.x, self.x if delta is None else delta, weight, self.h, rows.seats, *self._lora(name, index, z),
            self._eps, self.width, *self._strides(name, z), n * self.width, PARTS=parts,
            BLOCK=triton.next_power_of_2(self.width), LORA=z is not None, SHARES=4, num_warps=8, **self._early(rows),
        )  # fmt: skip

    def _rope_write(
        self, rows: Rows, index: int, bias: torch.Tensor, tables: torch.Tensor, z: torch.Tensor | None
    ) -> None:
        """Bias and rotary embedding; queries to ``_q``, keys and values to their pages."""
        group = self._group if rows.tiles is not None else min(2, self._group)  # few rows: more programs
        kernels.rope_write[(rows.seats.shape[0], (self.heads + 2 * self.kv_heads) // group)](
            self._qkv, bias, self._cos, self._sin, rows.positions, rows.seats, tables, self._q, self._cache.keys[index],
            self._cache.values[index], *self._lora("qkv", index, z), tables.shape[1], *self._strides("qkv", z),
            HEADS=self.heads, KV_HEADS=self.kv_heads, DIM=self.dim, PAGE=self._cache.page_size, GROUP=group,
            LORA=z is not None, SHARES=8, num_warps=4 if group > 2 else 1, **self._early(rows),
        )  # fmt: skip

    def _attend(self, rows: Rows, index: int, tables: torch.Tensor) -> None:
        """Attention of ``_q`` over the pages of layer ``index``, into ``_attended``."""
        scale, width = self.dim**-0.5, tables.shape[1]
        keys, values = self._cache.keys[index], self._cache.values[index]
        shape = {"HEADS": self.heads, "KV_HEADS": self.kv_heads, "DIM": self.dim, "PAGE": self._cache.page_size}
        if rows.decoding is not None:
            n = rows.decoding.shape[0]
            splits = _splits(n, self.heads)
            attention_kernels.attend_decode[(n, self.heads, splits)](
                self._q, keys, values, rows.decoding, rows.seats, tables, self._parts, self._stats, self._attended,
                scale, width, **shape, SPLITS=splits, BLOCK=min(32, self._cache.page_size), STAGES=2, num_warps=2,
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
                ROWS=TILE, BLOCK=min(64, self._cache.page_size), STAGES=3, num_warps=TILE // 16,
            )  # fmt: skip

    def _early(self, rows: Rows) -> dict[str, bool]:
        return kernels.early(rows.seats.shape[0], self._device)

    def _silu_mul(self, rows: Rows, index: int, z: torch.Tensor | None) -> None:
        block = 1024
        kernels.silu_mul[(rows.seats.shape[0], triton.cdiv(self.inner, block))](
            self._both, self._act, rows.seats, *self._lora("mlp", index, z), self.inner, *self._strides("mlp", z),
            BLOCK=block, LORA=z is not None, SHARES=8, num_warps=4, **self._early(rows),
        )  # fmt: skip


def _heads_together(heads: int, kv_heads: int) -> int:
    """How many heads a program takes: a power of two that divides both numbers, 8 at most."""
    return next(group for group in (8, 4, 2, 1) if heads % group == 0 and kv_heads % group == 0)


def _splits(batch: int, heads: int) -> int:
    """Into how many parts the decode attention cuts each context, a power of two."""
    return min(_MOST_SPLITS, int(triton.next_power_of_2(max(1, _PROGRAMS // (batch * heads)))))


def _join(layer: Any, quantise: bool) -> Layer:
    """A transformers layer's weights, its projections joined and made views of the joined ones."""
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return Layer(
        layer.input_layernorm.weight,
        Matrix.of(joined([linear.weight for linear in projections]), quantise),
        torch.cat([linear.bias for linear in projections]),
        Matrix.of(attention.o_proj.weight, quantise),
        layer.post_attention_layernorm.weight,
        Matrix.of(joined([mlp.gate_proj.weight, mlp.up_proj.weight]), quantise),
        Matrix.of(mlp.down_proj.weight, quantise),
    )
