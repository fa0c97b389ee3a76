"""Triton kernels of the fused decoder. Import this module only where Triton is installed.

Rows are packed tokens of many sequences; ``seats`` tells each row's sequence, whose page table and adapter
weights lie at that index on the device. A row with a negative position is padding: it writes nothing.
All arithmetic is float32; tensors are in the model's dtype.
"""

import triton
import triton.language as tl


@triton.jit
def _expand(z_row, b, weights, low, high, out_start, out_stride, offsets, inside, BLOCK: tl.constexpr):
    """Σ over a row's own columns: weight · z[column] · B[column, out], for ``offsets`` of the outputs."""
    total = tl.zeros(offsets.shape, tl.float32)
    for first in range(low, high, BLOCK):
        column = first + tl.arange(0, BLOCK)
        own = column < high
        weight = tl.load(weights + column, mask=own, other=0.0)
        used = weight != 0.0  # of unused columns nothing is read, whatever lies there
        z = tl.load(z_row + column, mask=used, other=0.0).to(tl.float32) * weight
        rows = tl.load(
            b + column[:, None].to(tl.int64) * out_stride + out_start + offsets[None, :],
            mask=used[:, None] & inside[None, :],
            other=0.0,
        )
        total += tl.sum(z[:, None] * rows.to(tl.float32), 0)
    return total


@triton.jit
def add_norm(
    x_ptr, delta_ptr, weight_ptr, out_ptr, seats_ptr, z_ptr, b_ptr, shares_ptr, ranges_ptr, eps, width, columns,
    part_size, PARTS: tl.constexpr, BLOCK: tl.constexpr, LORA: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    """x += the sum of ``PARTS`` deltas (none at first) and LoRA's; out = RMSNorm(x)."""
    row = tl.program_id(0).to(tl.int64)
    offset = tl.arange(0, BLOCK)
    inside = offset < width
    x = tl.load(x_ptr + row * width + offset, mask=inside, other=0.0)
    if PARTS > 0:
        delta = tl.load(delta_ptr + row * width + offset, mask=inside, other=0.0).to(tl.float32)
        for part in tl.static_range(1, PARTS):
            delta += tl.load(delta_ptr + part * part_size + row * width + offset, mask=inside, other=0.0)
        if LORA:
            seat = tl.load(seats_ptr + row)
            low, high = tl.load(ranges_ptr + 2 * seat), tl.load(ranges_ptr + 2 * seat + 1)
            more = _expand(
                z_ptr + row * columns, b_ptr, shares_ptr + seat * columns, low, high, 0, width, offset,
                inside, SHARES,
            )  # fmt: skip
            delta += more
        delta = delta.to(x.dtype)
        x = (x.to(tl.float32) + delta.to(tl.float32)).to(x.dtype)
        tl.store(x_ptr + row * width + offset, x, mask=inside)
    wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / width + eps)
    weight = tl.load(weight_ptr + offset, mask=inside, other=0.0)
    normed = (wide * scale).to(x.dtype).to(tl.float32) * weight.to(tl.float32)
    tl.store(out_ptr + row * width + offset, normed.to(x.dtype), mask=inside)


@triton.jit
def rope_write(
    qkv_ptr, bias_ptr, frequency_ptr, positions_ptr, seats_ptr, tables_ptr, q_ptr, k_ptr, v_ptr,
    z_ptr, bq_ptr, bk_ptr, bv_ptr, shares_ptr, ranges_ptr, table_width, columns,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr,
    LORA: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    position = tl.load(positions_ptr + row)
    if position < 0:
        return
    seat = tl.load(seats_ptr + row)
    Q: tl.constexpr = HEADS * DIM
    KV: tl.constexpr = KV_HEADS * DIM
    is_query = head < HEADS
    is_key = (head >= HEADS) & (head < HEADS + KV_HEADS)
    half = tl.arange(0, DIM // 2)
    everywhere = half >= 0
    source = qkv_ptr + row * (Q + 2 * KV) + head * DIM
    low_half = tl.load(source + half).to(tl.float32) + tl.load(bias_ptr + head * DIM + half).to(tl.float32)
    high_half = (
        tl.load(source + DIM // 2 + half).to(tl.float32)
        + tl.load(bias_ptr + head * DIM + DIM // 2 + half).to(tl.float32)
    )  # fmt: skip
    if LORA:
        first, last = tl.load(ranges_ptr + 2 * seat), tl.load(ranges_ptr + 2 * seat + 1)
        weights = shares_ptr + seat * columns
        z_row = z_ptr + row * 3 * columns
        if is_query:
            low_half += _expand(z_row, bq_ptr, weights, first, last, head * DIM, Q, half, everywhere, SHARES)
            high_half += _expand(
                z_row, bq_ptr, weights, first, last, head * DIM + DIM // 2, Q, half, everywhere, SHARES
            )
        elif is_key:
            start = (head - HEADS) * DIM
            z_row += columns
            low_half += _expand(z_row, bk_ptr, weights, first, last, start, KV, half, everywhere, SHARES)
            high_half += _expand(z_row, bk_ptr, weights, first, last, start + DIM // 2, KV, half, everywhere, SHARES)
        else:
            start = (head - HEADS - KV_HEADS) * DIM
            z_row += 2 * columns
            low_half += _expand(z_row, bv_ptr, weights, first, last, start, KV, half, everywhere, SHARES)
            high_half += _expand(z_row, bv_ptr, weights, first, last, start + DIM // 2, KV, half, everywhere, SHARES)
    kind = qkv_ptr.dtype.element_ty
    # rounded to the model's dtype here, as transformers' own projection is
    low_half, high_half = low_half.to(kind).to(tl.float32), high_half.to(kind).to(tl.float32)
    if head < HEADS + KV_HEADS:
        angle = position.to(tl.float32) * tl.load(frequency_ptr + half)
        cos, sin = tl.cos(angle), tl.sin(angle)
        low_half, high_half = low_half * cos - high_half * sin, high_half * cos + low_half * sin
    if is_query:
        target = q_ptr + row * Q + head * DIM
    else:
        page = tl.load(tables_ptr + seat.to(tl.int64) * table_width + position // PAGE).to(tl.int64)
        slot = page * PAGE + position % PAGE
        if is_key:
            target = k_ptr + slot * KV + (head - HEADS) * DIM
        else:
            target = v_ptr + slot * KV + (head - HEADS - KV_HEADS) * DIM
    tl.store(target + half, low_half.to(kind))
    tl.store(target + DIM // 2 + half, high_half.to(kind))


@triton.jit
def attend_decode(
    q_ptr, k_ptr, v_ptr, positions_ptr, seats_ptr, tables_ptr, part_ptr, stats_ptr, out_ptr, scale, table_width,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One split of one head of one row: an online softmax in every key's lane, joined once at the end."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(positions_ptr + row) + 1
    share = tl.cdiv(tl.cdiv(length, SPLITS), BLOCK) * BLOCK
    low = split * share
    high = tl.minimum(low + share, length)
    dim, lane = tl.arange(0, DIM), tl.arange(0, BLOCK)
    query = tl.load(q_ptr + (row * HEADS + head) * DIM + dim).to(tl.float32) * scale
    seat = tl.load(seats_ptr + row)
    table = tables_ptr + seat.to(tl.int64) * table_width
    kv_head = head // (HEADS // KV_HEADS)
    total = tl.zeros([BLOCK, DIM], tl.float32)
    peak = tl.full([BLOCK], -1e30, tl.float32)
    weight = tl.zeros([BLOCK], tl.float32)
    for start in tl.range(low, high, BLOCK, num_stages=STAGES):
        token = start + lane
        valid = token < high
        page = tl.load(table + token // PAGE, mask=valid, other=0).to(tl.int64)
        place = ((page * PAGE + token % PAGE) * KV_HEADS + kv_head) * DIM
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
def join_splits(part_ptr, stats_ptr, out_ptr, DIM: tl.constexpr, SPLITS: tl.constexpr):
    head = tl.program_id(0).to(tl.int64)  # of all rows
    split, dim = tl.arange(0, SPLITS), tl.arange(0, DIM)
    peak = tl.load(stats_ptr + 2 * (head * SPLITS + split))
    weight = tl.load(stats_ptr + 2 * (head * SPLITS + split) + 1)
    factor = tl.exp(peak - tl.max(peak, 0))
    part = tl.load(part_ptr + (head * SPLITS + split[:, None]) * DIM + dim[None, :])
    joined = tl.sum(part * factor[:, None], 0) / tl.maximum(tl.sum(weight * factor, 0), 1e-30)
    tl.store(out_ptr + head * DIM + dim, joined.to(out_ptr.dtype.element_ty))


@triton.jit
def attend_prefill(
    q_ptr, k_ptr, v_ptr, tiles_ptr, tables_ptr, out_ptr, scale, table_width,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A tile of rows of one sequence against its context and itself, causal (FlashAttention's recurrence)."""
    tile = tl.program_id(0)
    head = tl.program_id(1)
    count = tl.load(tiles_ptr + 4 * tile + 1)
    if count == 0:
        return
    first = tl.load(tiles_ptr + 4 * tile).to(tl.int64)
    position = tl.load(tiles_ptr + 4 * tile + 2)
    seat = tl.load(tiles_ptr + 4 * tile + 3)
    table = tables_ptr + seat.to(tl.int64) * table_width
    kv_head = head // (HEADS // KV_HEADS)
    row, dim, lane = tl.arange(0, ROWS), tl.arange(0, DIM), tl.arange(0, BLOCK)
    place = ((first + row[:, None]) * HEADS + head) * DIM + dim[None, :]
    query = tl.load(q_ptr + place, mask=row[:, None] < count, other=0.0)
    total = tl.zeros([ROWS, DIM], tl.float32)
    peak = tl.full([ROWS], -1e30, tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    end = position + count
    for start in tl.range(0, end, BLOCK, num_stages=STAGES):
        token = start + lane
        valid = token < end
        page = tl.load(table + token // PAGE, mask=valid, other=0).to(tl.int64)
        slot = ((page * PAGE + token % PAGE) * KV_HEADS + kv_head) * DIM
        key = tl.load(k_ptr + slot[:, None] + dim[None, :], mask=valid[:, None], other=0.0)
        score = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        seen = valid[None, :] & (token[None, :] <= position + row[:, None])
        score = tl.where(seen, score, -float("inf"))
        higher = tl.maximum(peak, tl.max(score, 1))
        chance, kept = tl.exp(score - higher[:, None]), tl.exp(peak - higher)
        value = tl.load(v_ptr + slot[:, None] + dim[None, :], mask=valid[:, None], other=0.0)
        total = tl.dot(chance.to(value.dtype), value, total * kept[:, None], input_precision="ieee")
        weight = weight * kept + tl.sum(chance, 1)
        peak = higher
    total = total / tl.maximum(weight, 1e-30)[:, None]
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=row[:, None] < count)


@triton.jit
def silu_mul(
    both_ptr, out_ptr, seats_ptr, z_ptr, bg_ptr, bu_ptr, shares_ptr, ranges_ptr, width, columns,
    BLOCK: tl.constexpr, LORA: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * BLOCK
    offset = tl.arange(0, BLOCK)
    inside = start + offset < width
    gate = tl.load(both_ptr + row * 2 * width + start + offset, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both_ptr + row * 2 * width + width + start + offset, mask=inside, other=0.0).to(tl.float32)
    kind = out_ptr.dtype.element_ty
    if LORA:
        seat = tl.load(seats_ptr + row)
        low, high = tl.load(ranges_ptr + 2 * seat), tl.load(ranges_ptr + 2 * seat + 1)
        weights = shares_ptr + seat * columns
        z_row = z_ptr + row * 2 * columns
        gate += _expand(z_row, bg_ptr, weights, low, high, start, width, offset, inside, SHARES)
        up += _expand(z_row + columns, bu_ptr, weights, low, high, start, width, offset, inside, SHARES)
        gate, up = gate.to(kind).to(tl.float32), up.to(kind).to(tl.float32)
    gate = (gate / (1.0 + tl.exp(-gate))).to(kind).to(tl.float32)
    tl.store(out_ptr + row * width + start + offset, (gate * up).to(kind), mask=inside)


@triton.jit
def gemv(
    x_ptr, weight_ptr, out_ptr, outputs, inputs,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """One vector times a matrix [outputs, inputs], bound by the reading of the matrix."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    weights = weight_ptr + rows[:, None].to(tl.int64) * inputs + column[None, :]
    for start in tl.range(0, inputs, BLOCK, loop_unroll_factor=2):
        if EVEN:
            weight = tl.load(weights + start, eviction_policy="evict_first")
            x = tl.load(x_ptr + start + column)
        else:
            inside = start + column < inputs
            weight = tl.load(weights + start, mask=inside[None, :], other=0.0, eviction_policy="evict_first")
            x = tl.load(x_ptr + start + column, mask=inside, other=0.0)
        total += weight.to(tl.float32) * x.to(tl.float32)[None, :]
    tl.store(out_ptr + rows, tl.sum(total, 1).to(out_ptr.dtype.element_ty))


@triton.jit
def skinny(
    x_ptr, weight_ptr, out_ptr, rows, outputs, inputs, share,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A few rows times a matrix [outputs, inputs]; each program of the second axis sums its ``share`` of inputs."""
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    part = tl.program_id(1)
    row, column = tl.arange(0, ROWS), tl.arange(0, BLOCK)
    weights = weight_ptr + output[:, None].to(tl.int64) * inputs + column[None, :] + part * share
    xs = x_ptr + row[:, None] * inputs + column[None, :] + part * share
    total = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for start in tl.range(0, share, BLOCK, num_stages=STAGES):
        weight = tl.load(weights + start)
        x = tl.load(xs + start, mask=row[:, None] < rows, other=0.0)
        total = tl.dot(x, tl.trans(weight), total, input_precision="ieee")
    out = out_ptr + part * rows * outputs + row[:, None] * outputs + output[None, :]
    tl.store(out, total.to(out_ptr.dtype.element_ty), mask=row[:, None] < rows)
