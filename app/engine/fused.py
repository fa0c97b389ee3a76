"""The language model as one straight pass of large products and fused kernels, over transformers' own weights.

transformers' modules stay the model: their parameters become views of the joined matrices here, so nothing
is held twice, and PEFT, fingerprints and the classification path see what they always saw. The pass writes
into buffers made once, so it allocates nothing and can be captured as a CUDA graph.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton

from app.engine import kernels
from app.engine.kv_cache import PagedCache
from app.engine.stacks import GROUPS, LoraStacks

TILE = 64  # rows of one sequence that a program of the prefill attention takes
_PROGRAMS = 512  # of the decode attention, about what keeps the memory busy
_MOST_SPLITS = 16
_SKINNY = 64  # rows up to which our product reads a matrix faster than the library's
_MOST_PARTS = 4
_NARROW = 8192  # outputs of a matrix that too few programs would read, so its inputs are split as well
_GEMV_ROWS, _GEMV_BLOCK = 8, 1024


@dataclass(frozen=True)
class Layer:
    """One decoder layer's weights: ``qkv`` [q + k + v, hidden], ``gate_up`` [2 · intermediate, hidden]."""

    input_norm: torch.Tensor
    qkv: torch.Tensor
    bias: torch.Tensor
    out: torch.Tensor
    post_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


@dataclass(frozen=True)
class Rows:
    """Packed rows of a pass, as int32 on the device: each row's seat and position (-1: padding).

    ``tiles`` [tiles, 4] (first row, rows, position, seat) for prefill; None when each row is a decoding sequence.
    """

    seats: torch.Tensor
    positions: torch.Tensor
    tiles: torch.Tensor | None


class FusedModel:
    """Weights, buffers and the pass. ``rows``: the most rows of a pass; ``batch``: the most that decode."""

    def __init__(self, model: Any, cache: PagedCache, stacks: LoraStacks, rows: int, batch: int) -> None:
        config = model.config.get_text_config()
        language_model = model.model.language_model
        self._cache, self.stacks = cache, stacks
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.width, self.inner = config.hidden_size, config.intermediate_size
        self._eps = config.rms_norm_eps
        self._layers = [_join(layer) for layer in language_model.layers]
        self._norm = language_model.norm.weight
        self._head = model.lm_head.weight
        self._frequency = language_model.rotary_emb.inv_freq.float()
        device, dtype = cache.keys.device, cache.keys.dtype

        def buffer(*shape: int, kind: torch.dtype = dtype) -> torch.Tensor:
            return torch.zeros(shape, device=device, dtype=kind)

        self.x, self.h, self._delta = (buffer(rows, self.width) for _ in range(3))
        self._qkv = buffer(rows, (self.heads + 2 * self.kv_heads) * self.dim)
        self._q, self._attended = (buffer(rows, self.heads * self.dim) for _ in range(2))
        self._both, self._act = buffer(rows, 2 * self.inner), buffer(rows, self.inner)
        self.logits = buffer(batch, self._head.shape[0])
        most_parts = max(_splits(n, self.heads) * n for n in range(1, batch + 1)) * self.heads
        self._parts = buffer(most_parts, self.dim, kind=torch.float32)
        self._sums = buffer(_MOST_PARTS * _SKINNY * self.width, kind=torch.float32)
        self._stats = buffer(most_parts, 2, kind=torch.float32)
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def run(self, rows: Rows, tables: torch.Tensor, lora: bool) -> None:
        """From embeddings in ``x`` to normed hidden states in ``h``; keys and values go to the cache.

        ``tables``: pages of each seat [seats, pages], int32. ``lora``: whether any row has an adapter.
        """
        n = rows.seats.shape[0]
        h, qkv, attended = self.h[:n], self._qkv[:n], self._attended[:n]
        both, act = self._both[:n], self._act[:n]
        norms = [layer.input_norm for layer in self._layers[1:]] + [self._norm]
        self._add_norm(rows, self._layers[0].input_norm, None)
        for index, layer in enumerate(self._layers):
            z = self._project("qkv", index, h, layer.qkv, qkv, rows, lora)
            self._rope_write(rows, index, layer.bias, tables, z)
            self._attend(rows, index, tables)
            delta = self._delta_of(attended, layer.out)
            z = self._project("out", index, attended, layer.out, delta, rows, lora)
            self._add_norm(rows, layer.post_norm, delta, index, z, "out")
            z = self._project("mlp", index, h, layer.gate_up, both, rows, lora)
            self._silu_mul(rows, index, z)
            delta = self._delta_of(act, layer.down)
            z = self._project("down", index, act, layer.down, delta, rows, lora)
            self._add_norm(rows, norms[index], delta, index, z, "down")

    def head(self, hidden: torch.Tensor, seats: torch.Tensor, out: torch.Tensor, lora: bool) -> torch.Tensor:
        """Logits [rows, vocabulary] of ``hidden`` [rows, hidden size], into ``out``."""
        product(hidden, self._head, out)
        held = self.stacks.groups.get("head") if lora else None
        if held is not None:
            out.addmm_(masked(hidden @ held.a[0].t(), self.stacks.shares[seats]), held.b[0])
        return out

    def _project(
        self, name: str, index: int, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, rows: Rows, lora: bool
    ) -> torch.Tensor | None:
        """``out`` = x Wᵀ, and z = x Aᵀ of the group beside it. Prefill adds z B here; for decode the next kernel does.

        Returns z [rows, projections · columns] where it is still to be added.
        """
        held = self.stacks.groups.get(name) if lora else None
        if held is None:
            product(x, weight, out)
            return None
        here = torch.cuda.current_stream() if self._side else None
        if self._side and here:  # the small product hides behind the large one
            self._side.wait_stream(here)
            with torch.cuda.stream(self._side):
                z = x @ held.a[index].t()
            product(x, weight, out)
            here.wait_stream(self._side)
            z.record_stream(here)
        else:
            z = x @ held.a[index].t()
            product(x, weight, out)
        if rows.tiles is None:
            return z
        shares, start = self.stacks.shares[rows.seats], 0
        for part, b in zip(torch.split(z, self.stacks.columns, 1), held.b, strict=True):
            width = b.shape[2]
            out[:, start : start + width].addmm_(masked(part, shares), b[index])
            start += width
        return None

    def _lora(self, name: str, index: int, z: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """What a kernel wants of a group: z, each B, shares and ranges; anything where there is nothing to add."""
        stacks = self.stacks
        if z is None:
            return (self.x, *(self.x for _ in GROUPS[name]), stacks.shares, stacks.ranges)
        return (z, *(b[index] for b in stacks.groups[name].b), stacks.shares, stacks.ranges)

    def _delta_of(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Where a product that is to be added to ``x`` goes: [rows, hidden], or [parts, rows, hidden] to be summed."""
        n, parts = x.shape[0], _parts(x, weight)
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
            self._eps, self.width, self.stacks.columns, n * self.width, PARTS=parts,
            BLOCK=triton.next_power_of_2(self.width), LORA=z is not None, SHARES=4, num_warps=8,
        )  # fmt: skip

    def _rope_write(
        self, rows: Rows, index: int, bias: torch.Tensor, tables: torch.Tensor, z: torch.Tensor | None
    ) -> None:
        """Bias and rotary embedding; queries to ``_q``, keys and values to their pages."""
        kernels.rope_write[(rows.seats.shape[0], self.heads + 2 * self.kv_heads)](
            self._qkv, bias, self._frequency, rows.positions, rows.seats, tables, self._q, self._cache.keys[index],
            self._cache.values[index], *self._lora("qkv", index, z), tables.shape[1], self.stacks.columns,
            HEADS=self.heads, KV_HEADS=self.kv_heads, DIM=self.dim, PAGE=self._cache.page_size, LORA=z is not None,
            SHARES=16, num_warps=1,
        )  # fmt: skip

    def _attend(self, rows: Rows, index: int, tables: torch.Tensor) -> None:
        """Attention of ``_q`` over the pages of layer ``index``, into ``_attended``."""
        n, scale = rows.seats.shape[0], self.dim**-0.5
        keys, values, width = self._cache.keys[index], self._cache.values[index], tables.shape[1]
        shape = {"HEADS": self.heads, "KV_HEADS": self.kv_heads, "DIM": self.dim, "PAGE": self._cache.page_size}
        if rows.tiles is not None:
            kernels.attend_prefill[(rows.tiles.shape[0], self.heads)](
                self._q, keys, values, rows.tiles, tables, self._attended, scale, width, **shape,
                ROWS=TILE, BLOCK=64, STAGES=2, num_warps=4,
            )  # fmt: skip
            return
        splits = _splits(n, self.heads)
        kernels.attend_decode[(n, self.heads, splits)](
            self._q, keys, values, rows.positions, rows.seats, tables, self._parts, self._stats, self._attended,
            scale, width, **shape, SPLITS=splits, BLOCK=32, STAGES=2, num_warps=2,
        )  # fmt: skip
        if splits > 1:
            kernels.join_splits[(n * self.heads,)](
                self._parts, self._stats, self._attended, DIM=self.dim, SPLITS=splits, num_warps=1
            )

    def _silu_mul(self, rows: Rows, index: int, z: torch.Tensor | None) -> None:
        block = 1024
        kernels.silu_mul[(rows.seats.shape[0], triton.cdiv(self.inner, block))](
            self._both, self._act, rows.seats, *self._lora("mlp", index, z), self.inner, self.stacks.columns,
            BLOCK=block, LORA=z is not None, SHARES=8, num_warps=4,
        )  # fmt: skip


def product(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    """``out`` [rows, outputs] = ``x`` [rows, inputs] · ``weight`` [outputs, inputs]ᵀ.

    An ``out`` of [parts, rows, outputs] gets parts that are still to be summed.
    """
    rows, (outputs, inputs) = x.shape[0], weight.shape
    parts = out.shape[0] if out.dim() == 3 else 1
    if rows == 1 and x.is_cuda and outputs % _GEMV_ROWS == 0:
        kernels.gemv[(outputs // _GEMV_ROWS,)](
            x, weight, out, outputs, inputs, ROWS=_GEMV_ROWS, BLOCK=_GEMV_BLOCK, EVEN=inputs % _GEMV_BLOCK == 0,
            num_warps=8,
        )  # fmt: skip
    elif _is_skinny(x, weight) and (parts > 1 or rows <= _SKINNY // 2):
        block = 32 if outputs < 2 * _NARROW else 64
        kernels.skinny[(outputs // block, parts)](
            x, weight, out, rows, outputs, inputs, inputs // parts, ROWS=max(16, triton.next_power_of_2(rows)),
            OUTPUTS=block, BLOCK=128, STAGES=4, num_warps=4,
        )  # fmt: skip
    else:
        torch.mm(x, weight.t(), out=out)


def _is_skinny(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether our product can take this one, and should."""
    outputs, inputs = weight.shape
    fits = outputs % 64 == 0 and inputs % 128 == 0 and x.dtype in (torch.bfloat16, torch.float16)
    return fits and x.is_cuda and 1 < x.shape[0] <= _SKINNY


def _parts(x: torch.Tensor, weight: torch.Tensor) -> int:
    """Into how many parts the inputs of a product are split."""
    outputs, inputs = weight.shape
    if not _is_skinny(x, weight) or outputs > _NARROW:
        return 1
    return next((parts for parts in (_MOST_PARTS, 2) if inputs % (128 * parts) == 0), 1)


def masked(z: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """z [rows, columns] weighted by each row's shares; of what a row does not use, not even a NaN gets through."""
    return torch.where(shares != 0, z * shares, 0).to(z.dtype)


def _splits(batch: int, heads: int) -> int:
    """Into how many parts the decode attention cuts each context, a power of two."""
    return min(_MOST_SPLITS, int(triton.next_power_of_2(max(1, _PROGRAMS // (batch * heads)))))


def _join(layer: Any) -> Layer:
    """A transformers layer's weights, its projections joined and made views of the joined ones."""
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return Layer(
        layer.input_layernorm.weight,
        _joined([linear.weight for linear in projections]),
        torch.cat([linear.bias for linear in projections]),
        attention.o_proj.weight,
        layer.post_attention_layernorm.weight,
        _joined([mlp.gate_proj.weight, mlp.up_proj.weight]),
        mlp.down_proj.weight,
    )


def _joined(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    whole = torch.cat([parameter.data for parameter in parameters])
    for parameter, view in zip(parameters, torch.split(whole, [p.shape[0] for p in parameters]), strict=True):
        parameter.data = view
    return whole
