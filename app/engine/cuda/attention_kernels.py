"""Triton kernels of the fused decoder's attention over the KV cache.

Import this module only where Triton is installed.

Rows, batch indices and padding as in `kernels`; all sums are float32.
"""

import triton
import triton.language as tl

from app.engine.cuda.kernels import await_last, let_next_start


@triton.jit
def attend_decode(
    q_ptr, k_ptr, v_ptr, positions_ptr, batch_ptr, tables_ptr, part_ptr, stats_ptr, out_ptr, scale, table_width,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr = False,
):  # fmt: skip
    """One split of one head of one row: an online softmax in every key's lane, reduced once at the end."""
    let_next_start(EARLY)
    await_last(EARLY)
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(positions_ptr + row) + 1
    per_split = tl.cdiv(tl.cdiv(length, SPLITS), BLOCK) * BLOCK
    low = split * per_split
    high = tl.minimum(low + per_split, length)
    dim, lane = tl.arange(0, DIM), tl.arange(0, BLOCK)
    query = tl.load(q_ptr + (row * HEADS + head) * DIM + dim).to(tl.float32) * scale
    batch_index = tl.load(batch_ptr + row)
    table = tables_ptr + batch_index.to(tl.int64) * table_width
    kv_head = head // (HEADS // KV_HEADS)
    total = tl.zeros([BLOCK, DIM], tl.float32)
    peak = tl.full([BLOCK], -1e30, tl.float32)
    weight = tl.zeros([BLOCK], tl.float32)
    for start in tl.range(low, high, BLOCK, num_stages=STAGES):
        token = start + lane
        valid = token < high
        page = tl.load(table + start // PAGE).to(tl.int64)  # a block lies in one page
        place = ((page * PAGE + start % PAGE + lane) * KV_HEADS + kv_head) * DIM
        key = tl.load(k_ptr + place[:, None] + dim[None, :], mask=valid[:, None], other=0.0)
        value = tl.load(v_ptr + place[:, None] + dim[None, :], mask=valid[:, None], other=0.0)
        score = tl.where(valid, tl.sum(key.to(tl.float32) * query[None, :], 1), -float("inf"))
        higher = tl.maximum(peak, score)
        chance, kept = tl.exp(score - higher), tl.exp(peak - higher)
        total = total * kept[:, None] + chance[:, None] * value.to(tl.float32)
        weight = weight * kept + chance
        peak = higher
    top = tl.max(peak, 0)
    factor = tl.exp(peak - top)
    weights = tl.sum(weight * factor, 0)
    summed = tl.sum(total * factor[:, None], 0)
    if SPLITS == 1:
        summed = summed / tl.maximum(weights, 1e-30)
        tl.store(out_ptr + (row * HEADS + head) * DIM + dim, summed.to(out_ptr.dtype.element_ty))
    else:
        part = (row * HEADS + head) * SPLITS + split
        tl.store(part_ptr + part * DIM + dim, summed)
        tl.store(stats_ptr + 2 * part, top)
        tl.store(stats_ptr + 2 * part + 1, weights)


@triton.jit
def join_splits(part_ptr, stats_ptr, out_ptr, DIM: tl.constexpr, SPLITS: tl.constexpr, EARLY: tl.constexpr = False):
    let_next_start(EARLY)
    await_last(EARLY)
    head = tl.program_id(0).to(tl.int64)  # of all rows
    split, dim = tl.arange(0, SPLITS), tl.arange(0, DIM)
    peak = tl.load(stats_ptr + 2 * (head * SPLITS + split))
    weight = tl.load(stats_ptr + 2 * (head * SPLITS + split) + 1)
    factor = tl.exp(peak - tl.max(peak, 0))
    part = tl.load(part_ptr + (head * SPLITS + split[:, None]) * DIM + dim[None, :])
    total = tl.sum(part * factor[:, None], 0) / tl.maximum(tl.sum(weight * factor, 0), 1e-30)
    tl.store(out_ptr + head * DIM + dim, total.to(out_ptr.dtype.element_ty))


@triton.jit
def _attend_block(
    query, total, peak, weight, k_ptr, v_ptr, table, start, end, position, kv_head, scale,
    KV_HEADS: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """One block of keys of the online softmax; without ``MASKED`` every row sees all of it."""
    row, dim, lane = tl.arange(0, ROWS), tl.arange(0, DIM), tl.arange(0, BLOCK)
    page = tl.load(table + start // PAGE).to(tl.int64)  # a block lies in one page
    place = ((page * PAGE + start % PAGE + lane) * KV_HEADS + kv_head) * DIM
    if MASKED:
        token = start + lane
        valid = token < end
        key = tl.load(k_ptr + place[:, None] + dim[None, :], mask=valid[:, None], other=0.0)
        value = tl.load(v_ptr + place[:, None] + dim[None, :], mask=valid[:, None], other=0.0)
    else:
        key = tl.load(k_ptr + place[:, None] + dim[None, :])
        value = tl.load(v_ptr + place[:, None] + dim[None, :])
    score = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    if MASKED:
        seen = valid[None, :] & (token[None, :] <= position + row[:, None])
        score = tl.where(seen, score, -float("inf"))
    higher = tl.maximum(peak, tl.max(score, 1))
    chance, kept = tl.exp(score - higher[:, None]), tl.exp(peak - higher)
    total = tl.dot(chance.to(value.dtype), value, total * kept[:, None], input_precision="ieee")
    return total, higher, weight * kept + tl.sum(chance, 1)


@triton.jit
def attend_prefill(
    q_ptr, k_ptr, v_ptr, tiles_ptr, tables_ptr, out_ptr, scale, table_width,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A tile of rows of one sequence against its context and itself, causal (FlashAttention's recurrence)."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # the ends of prompts, which take longest, first
    head = tl.program_id(1)
    count = tl.load(tiles_ptr + 4 * tile + 1)
    if count == 0:
        return
    first = tl.load(tiles_ptr + 4 * tile).to(tl.int64)
    position = tl.load(tiles_ptr + 4 * tile + 2)
    batch_index = tl.load(tiles_ptr + 4 * tile + 3)
    table = tables_ptr + batch_index.to(tl.int64) * table_width
    kv_head = head // (HEADS // KV_HEADS)
    row, dim = tl.arange(0, ROWS), tl.arange(0, DIM)
    place = ((first + row[:, None]) * HEADS + head) * DIM + dim[None, :]
    query = tl.load(q_ptr + place, mask=row[:, None] < count, other=0.0)
    total = tl.zeros([ROWS, DIM], tl.float32)
    peak = tl.full([ROWS], -1e30, tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    end = position + count
    before = position // BLOCK * BLOCK  # blocks that all rows see whole
    for start in tl.range(0, before, BLOCK, num_stages=STAGES):
        total, peak, weight = _attend_block(
            query, total, peak, weight, k_ptr, v_ptr, table, start, end, position, kv_head, scale,
            KV_HEADS, DIM, PAGE, ROWS, BLOCK, False,
        )  # fmt: skip
    for start in tl.range(before, end, BLOCK, num_stages=STAGES):
        total, peak, weight = _attend_block(
            query, total, peak, weight, k_ptr, v_ptr, table, start, end, position, kv_head, scale,
            KV_HEADS, DIM, PAGE, ROWS, BLOCK, True,
        )  # fmt: skip
    total = total / tl.maximum(weight, 1e-30)[:, None]
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=row[:, None] < count)
