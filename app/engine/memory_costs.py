"""Bytes of everything that a server keeps on its device. Figures of a plan, with no device needed to reckon them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from app.engine.config import EngineConfig
from app.engine.kv_cache.paged_cache import GATHERED
from app.engine.lora.slots import planned_columns
from app.models.device_memory import CONTEXT, LIBRARIES, MARGIN
from app.models.loading import CHECKSUM_WORDS
from app.models.shape import WEIGHTS, ModelShape, weight_bytes

MIB = 1 << 20
LOADING = 3 * 16 * MIB  # pieces of an adapter on their way into its columns
WORKSPACES = 64 * MIB  # of cuBLAS, on the streams that compute and capture
# Sequences at a time, adapter columns, graphs and the encoder's cache grow with the clients that a level is for.
CLIENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
TEXT_TOKENS = 274  # of a client's request, beside its audio: question and answer; 1024 with a clip of 30 s
_BATCH = 4  # sequences of a level, per client
_CACHE = 16 * MIB  # of the encoder's outputs, per client
_LEAST_GRAPHS, _GRAPHS, _MOST_GRAPHS = 128 * MIB, 32 * MIB, 1024 * MIB  # of CUDA graphs, per client
_LEAST_PLAIN, _PLAIN, _MOST_PLAIN = 48 * MIB, 2 * MIB, 2048 * MIB  # of adapters in plain PEFT, per client squared
_LEAST_STEP = 512  # tokens
CUDA_BLOCK_SIZE = 64  # tokens; a program of the decode attention reads them in two iterations
_PARTS = 1024  # of contexts that the decode attention computes apart, at most, while sequences are few
_SCRATCH = 3 << 24  # weights that are dequantised at a time
_SUMS = 256  # rows of partial sums of split products


@dataclass(frozen=True)
class Level:
    """What a server with room for so many clients offers beside its KV cache; no field exceeds the settings'.

    ``max_batch``, ``step_tokens``, ``encoder_cache_bytes``: as in `EngineConfig`. ``columns``: of adapters.
    ``graph_bytes``: of CUDA graphs. ``plain_bytes``: of adapters that plain PEFT serves.
    """

    clients: int
    max_batch: int
    step_tokens: int
    columns: int
    encoder_cache_bytes: int
    graph_bytes: int
    plain_bytes: int


def levels(limits: EngineConfig) -> list[Level]:
    """All levels, the smallest first; each offers at least what the one before it does. The last is the settings'."""
    columns = planned_columns(limits.max_resident)
    found = [
        Level(
            clients,
            min(limits.max_batch, _BATCH * clients),
            min(limits.step_tokens, _LEAST_STEP * clients),
            min(columns, planned_columns(clients)),
            min(limits.encoder_cache_bytes, _CACHE * clients),
            min(_LEAST_GRAPHS + _GRAPHS * clients, _MOST_GRAPHS),
            min(_LEAST_PLAIN + _PLAIN * clients**2, _MOST_PLAIN),
        )
        for clients in CLIENTS
    ]
    distinct = [found[0], *(one for before, one in pairwise(found) if not _same(before, one))]
    last = replace(
        found[-1],
        max_batch=limits.max_batch,
        step_tokens=limits.step_tokens,
        columns=columns,
        encoder_cache_bytes=limits.encoder_cache_bytes,
    )
    return distinct if _same(distinct[-1], last) else [*distinct, last]


def _same(one: Level, other: Level) -> bool:
    """True if two levels offer the same."""
    return {**vars(one), "clients": 0} == {**vars(other), "clients": 0}


def token_bytes(shape: ModelShape, itemsize: int) -> int:
    """Bytes of a token's keys and values over all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * itemsize


def audio_bytes(shape: ModelShape, itemsize: int) -> int:
    """Bytes of the embedding that a running request keeps for each of its audio tokens."""
    return shape.hidden * itemsize


def alone_bytes(shape: ModelShape, itemsize: int) -> int:
    """Bytes that a token of a prompt takes for a moment where plain PEFT computes it."""
    return (8 * shape.hidden + 3 * shape.intermediate) * itemsize


def column_bytes(shape: ModelShape, itemsize: int) -> int:
    """Bytes of one adapter column on all linear layers."""
    return shape.column_numbers * itemsize


def fixed_bytes(
    shape: ModelShape, level: Level, limits: EngineConfig, weights: str, itemsize: int, fused: bool
) -> Mapping[str, int]:
    """Bytes of each part but the KV cache and its audio embeddings, by name."""
    return {
        "weights": weight_bytes(shape, weights, itemsize),
        "adapters": level.columns * column_bytes(shape, itemsize),
        "buffers": buffer_bytes(shape, level, limits, itemsize) if fused else 0,
        "work": work_bytes(shape, level, weights, itemsize, fused),
        "encoder cache": level.encoder_cache_bytes,
        "plain PEFT": level.plain_bytes,
        "graphs": level.graph_bytes if fused else 0,
        "CUDA": CONTEXT + LIBRARIES,
        "margin": MARGIN,
    }


def buffer_bytes(shape: ModelShape, level: Level, limits: EngineConfig, itemsize: int) -> int:
    """Bytes of the tensors that the fused decoder allocates once, rounded up where shapes are padded."""
    rows, batch = -(-max(level.step_tokens, level.max_batch) // 128) * 128 + 48, level.max_batch
    heads, width = shape.heads * shape.head_dim, shape.hidden
    projected = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    per_row = 3 * width + projected + 2 * heads + 3 * shape.intermediate
    parts = max(_PARTS, batch * shape.heads) * (shape.head_dim + 2)
    in_float = parts + _SUMS * width + limits.max_context * shape.head_dim
    indices = (batch + 2) * (-(-limits.max_context // CUDA_BLOCK_SIZE) + level.columns + 4) + 8 * rows + 5 * batch
    return (rows * per_row + batch * shape.vocabulary) * itemsize + 4 * (in_float + indices)


def work_bytes(shape: ModelShape, level: Level, weights: str, itemsize: int, fused: bool) -> int:
    """Bytes that steps, sampling, the encoder and adapter loads take for a moment."""
    rows, width = max(level.step_tokens, level.max_batch), shape.hidden
    if fused:
        step = rows * (2 * width + 3 * level.columns) * itemsize
    else:
        step = rows * (12 * width + 4 * shape.intermediate + 2 * level.columns) * itemsize
        step += 4 * GATHERED * shape.heads * shape.head_dim * itemsize
    if weights != WEIGHTS[0]:  # a part of a matrix is dequantised at a time, or by plain modules all of it
        step += _SCRATCH * itemsize if fused else shape.largest_matrix * (itemsize + 4)
    sampling = level.max_batch * shape.vocabulary * (itemsize + 16) + 64 * shape.vocabulary
    frames, tower = 2 * shape.window, shape.tower_width
    convolutions = (2 * frames + 2 * shape.window) * tower
    layers = shape.window * (9 * tower + 2 * shape.tower_inner) + shape.window**2
    projecting = shape.window * (2 * width + shape.projector_inner)
    encoding = (2 * (convolutions + layers) + projecting) * itemsize  # as a graph, and for adapters on the tower
    projector = 16 * shape.projector_numbers  # a mix of projectors, in float32
    return step + sampling + encoding + projector + 5 * 8 * CHECKSUM_WORDS + LOADING + WORKSPACES
