"""The plan of memory: what a server keeps on its device within a cap, before any of it is allocated.

`plan` is pure arithmetic over a model's dimensions. The engine allocates what it says, and `overtone plan` prints it.
"""

import importlib.util
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from app.engine.config import EngineConfig
from app.engine.lora.slots import COLUMNS
from app.engine.memory_costs import (
    CUDA_BLOCK_SIZE,
    TEXT_TOKENS,
    Level,
    alone_bytes,
    audio_bytes,
    column_bytes,
    fixed_bytes,
    levels,
    token_bytes,
)
from app.errors import BadRequest
from app.models.device_memory import device_cap, gb, is_out_of_memory
from app.models.loading import LoadedModel
from app.models.shape import WEIGHTS, ModelShape, shape_of, weight_bytes

log = logging.getLogger(__name__)
BLOCK_SIZE = 16  # tokens
_CPU_BYTES = 512 << 20
_GROWTH = 1.25  # of the columns' own size: while they grow, the largest tensor is there twice


@dataclass(frozen=True)
class MemoryPlan:
    """What is allocated, in bytes where nothing else is said.

    ``blocks`` of ``block_size`` tokens: the KV cache, of which a token takes ``token_bytes``. ``columns``: of adapters,
    allocated at start; ``most_columns``: up to which they may grow, None without a limit. ``slot_bytes``: of the
    former. ``graph_bytes``: of CUDA graphs; ``plain_bytes``: of adapters that plain PEFT serves; ``alone_tokens``: of a
    prompt that it computes at once; None without a limit. ``parts``: bytes by what takes them, the KV cache
    included; their sum is at most ``cap``. ``level``: None where the settings hold as they are.
    """

    blocks: int
    block_size: int
    token_bytes: int
    weight_bytes: int
    slot_bytes: int = 0
    columns: int | None = None
    most_columns: int | None = None
    graph_bytes: int | None = None
    plain_bytes: int | None = None
    alone_tokens: int | None = None
    parts: Mapping[str, int] = field(default_factory=dict)
    cap: int | None = None
    level: Level | None = None
    client_tokens: int = 1024

    @property
    def kv_bytes(self) -> int:
        return self.blocks * self.block_size * self.token_bytes

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return self.blocks * self.block_size

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())

    @property
    def clients(self) -> int:
        """Requests with a clip of 30 s that run at a time; others wait."""
        running = self.kv_tokens // self.client_tokens
        return min(running, self.level.max_batch) if self.level else running

    def applied(self, limits: EngineConfig) -> EngineConfig:
        """The limits with what the plan made smaller. Sequences that no longer run at a time may wait instead."""
        if self.level is None:
            return limits
        return replace(
            limits,
            max_batch=self.level.max_batch,
            max_queue=limits.max_queue + limits.max_batch - self.level.max_batch,
            step_tokens=self.level.step_tokens,
            encoder_cache_bytes=self.level.encoder_cache_bytes,
        )

    def __str__(self) -> str:
        found = (
            f"weights {gb(self.weight_bytes, 2)} GB, adapter slots up to {gb(self.slot_bytes, 2)} GB, "
            f"KV cache {gb(self.kv_bytes, 2)} GB = {self.kv_tokens} tokens ({self.clients} clients with 30 s of audio)"
        )
        if self.cap is None or self.level is None:
            return found
        chosen = self.level
        return (
            f"{found}, {gb(self.total, 2)} of {gb(self.cap, 2)} GB in all; batch {chosen.max_batch}, step "
            f"{chosen.step_tokens} tokens, {self.columns} adapter columns"
        )


class DoesNotFit(BadRequest):
    """No plan lies within the cap. ``needed``: bytes of the smallest one."""

    def __init__(self, needed: int, message: str) -> None:
        self.needed = needed
        super().__init__(message)


def use_fused(limits: EngineConfig, device: torch.device, computable: bool = True) -> bool:
    """True for the fused decoder, False for transformers' modules. ``computable``: as `LanguageModel.fused`.

    Raises BadRequest where a setting asks for a decoder that cannot run.
    """
    if not computable:
        if limits.decoder == "fused":
            raise BadRequest("OVERTONE_DECODER=fused does not compute this model's layers; use auto or modules.")
        return False
    has_triton = importlib.util.find_spec("triton") is not None
    if limits.decoder == "fused" and not has_triton:
        raise BadRequest("OVERTONE_DECODER=fused needs Triton, which torch for CUDA brings; use auto or modules.")
    return limits.decoder == "fused" or (limits.decoder == "auto" and has_triton and device.type == "cuda")


@contextmanager
def named_shortage(cap: int | None) -> Iterator[None]:
    """Raise BadRequest in two lines in place of what PyTorch and CUDA say when memory ends within the block."""
    try:
        yield
    except Exception as error:
        if cap is None or not is_out_of_memory(error):
            raise
        log.error("the device's memory ended at start", exc_info=error)
        raise BadRequest(
            f"The device's memory ended before the server was ready; {gb(cap, down=True)} GB were planned with.\n"
            "Something else may have taken a part meanwhile. Free it, or set OVERTONE_GPU_GB lower than that."
        ) from None


def plan_memory(
    loaded: LoadedModel, kv_gb: float | None, limits: EngineConfig, gpu_gb: float | None = None
) -> MemoryPlan:
    """The plan for a model that is loaded. ``kv_gb``, ``gpu_gb``: see `Settings`. Raises as `plan`."""
    shape = shape_of(loaded.model.config, loaded.spec)
    held = sum(parameter.nbytes for parameter in loaded.model.parameters())
    return plan_on(loaded.device, shape, kv_gb, limits, loaded.dtype, gpu_gb, held)


def plan_on(
    device: torch.device,
    shape: ModelShape,
    kv_gb: float | None,
    limits: EngineConfig,
    dtype: torch.dtype,
    gpu_gb: float | None,
    held: int = 0,
) -> MemoryPlan:
    """The plan for a device as it is now. ``held``: bytes of weights that are there already. Raises as `plan`."""
    cap, fused = device_cap(device, gpu_gb, held), use_fused(limits, device, shape.fused)
    allowed = cap is not None and gpu_gb is not None and cap == int(gpu_gb * 1e9)
    given_by = "OVERTONE_GPU_GB allows" if allowed else "free are"
    return plan(shape, limits, dtype, cap, kv_gb=kv_gb, fused=fused, given_by=given_by)


def plan(
    shape: ModelShape,
    limits: EngineConfig,
    dtype: torch.dtype,
    cap: int | None,
    *,
    kv_gb: float | None = None,
    fused: bool = True,
    given_by: str = "it may take",
    weights: str | None = None,
) -> MemoryPlan:
    """Divide ``cap`` bytes; None: a CPU, whose memory is not divided and where the settings hold as they are.

    ``kv_gb``: size of the KV cache in 10^9 bytes in place of the rest. The largest of `levels` is taken that fits with
    a KV cache for its clients. ``given_by``: words for the cap in a refusal. ``weights``: a format in place of
    the shape's own.

    Raises DoesNotFit where the smallest level does not fit, and BadRequest for a KV cache without a block.
    """
    weights = weights or shape.weights
    one_token, block_size = token_bytes(shape, dtype.itemsize), CUDA_BLOCK_SIZE if cap else BLOCK_SIZE
    given = None if kv_gb is None else int(kv_gb * 1e9) // (block_size * one_token)
    if given == 0:
        raise BadRequest(f"OVERTONE_KV_GB={kv_gb:g} has no room for {block_size} tokens; raise it.")
    steps = [_step(shape, level, limits, weights, dtype, fused, given) for level in levels(limits)]
    client = shape.clip_tokens + TEXT_TOKENS
    if cap is None:
        blocks = given or _CPU_BYTES // (block_size * one_token)
        held = {"weights": weight_bytes(shape, weights, dtype.itemsize), "KV cache": blocks * block_size * one_token}
        slots = steps[-1].parts["adapters"]
        return MemoryPlan(blocks, block_size, one_token, held["weights"], slots, parts=held, client_tokens=client)
    fitting = [step for step in steps if step.bytes <= cap]
    if not fitting:
        raise DoesNotFit(steps[0].bytes, _refusal(shape, limits, weights, dtype, cap, kv_gb, fused, given_by))
    chosen, rest = fitting[-1], cap - sum(fitting[-1].parts.values())
    per_token = one_token + audio_bytes(shape, dtype.itemsize)
    blocks = given or (rest // per_token - 1) // block_size
    if given is None and len(fitting) < len(steps):
        # with more, the cache would shrink where the cap allows the next level
        blocks = min(blocks, steps[len(fitting)].blocks)
    tokens = blocks * block_size + 1  # the last is the one that no token is written to
    cache = {"KV cache": tokens * one_token, "audio": tokens * (per_token - one_token)}
    spare = rest - sum(cache.values())
    more = int(spare / (_GROWTH * column_bytes(shape, dtype.itemsize))) // COLUMNS * COLUMNS
    columns = chosen.level.columns
    return MemoryPlan(
        blocks,
        block_size,
        one_token,
        chosen.parts["weights"],
        chosen.parts["adapters"],
        columns,
        columns + more,
        chosen.level.graph_bytes,
        chosen.parts["plain PEFT"],
        chosen.parts["work"] // alone_bytes(shape, dtype.itemsize),
        {**chosen.parts, **cache},
        cap,
        chosen.level,
        client,
    )


@dataclass(frozen=True)
class _Step:
    """A level with the bytes of its parts, the blocks of KV cache that it wants at least, and the bytes of all."""

    level: Level
    parts: Mapping[str, int]
    blocks: int
    bytes: int


def _step(
    shape: ModelShape,
    level: Level,
    limits: EngineConfig,
    weights: str,
    dtype: torch.dtype,
    fused: bool,
    given: int | None,
) -> _Step:
    parts = fixed_bytes(shape, level, limits, weights, dtype.itemsize, fused)
    most = level.max_batch * min(limits.max_context, shape.positions)  # more are never in use
    tokens = min(level.clients * (shape.clip_tokens + TEXT_TOKENS), most)
    blocks = given or -(-tokens // CUDA_BLOCK_SIZE)
    per_token = token_bytes(shape, dtype.itemsize) + audio_bytes(shape, dtype.itemsize)
    return _Step(level, parts, blocks, sum(parts.values()) + (blocks * CUDA_BLOCK_SIZE + 1) * per_token)


def least_bytes(
    shape: ModelShape,
    limits: EngineConfig,
    weights: str,
    dtype: torch.dtype,
    *,
    kv_gb: float | None = None,
    fused: bool = True,
) -> int:
    """The smallest cap that `plan` accepts."""
    given = None if kv_gb is None else int(kv_gb * 1e9) // (CUDA_BLOCK_SIZE * token_bytes(shape, dtype.itemsize))
    return _step(shape, levels(limits)[0], limits, weights, dtype, fused, given).bytes


def _refusal(
    shape: ModelShape,
    limits: EngineConfig,
    weights: str,
    dtype: torch.dtype,
    cap: int,
    kv_gb: float | None,
    fused: bool,
    given_by: str,
) -> str:
    """Two lines: the numbers, and the setting that helps."""
    name = str(dtype).removeprefix("torch.") if weights == WEIGHTS[0] else weights
    beside = "" if kv_gb is None else f" with OVERTONE_KV_GB={kv_gb:g}"
    needed = least_bytes(shape, limits, weights, dtype, kv_gb=kv_gb, fused=fused)
    first = f"{shape.name} in {name}{beside} needs {gb(needed)} GB here; {given_by} {gb(cap, down=True)}."
    least = {one: least_bytes(shape, limits, one, dtype, fused=fused) for one in (weights, *WEIGHTS)}
    if kv_gb is not None and least[weights] <= cap:
        return f"{first}\nWithout OVERTONE_KV_GB it needs {gb(least[weights])} GB; the cache then takes the rest."
    smaller = [one for one in WEIGHTS if least[one] <= cap and least[one] < least[weights]]
    if smaller:
        return f"{first}\nOVERTONE_WEIGHTS={smaller[0]} needs {gb(least[smaller[0]])} GB."
    fewest = min(least, key=lambda one: least[one])
    return f"{first}\nNo format of the weights fits: {fewest} needs the least, {gb(least[fewest])} GB."
