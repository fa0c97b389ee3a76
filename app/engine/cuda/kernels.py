"""Triton kernels of the fused decoder. Import this module only where Triton is installed.

Rows are packed tokens of many sequences. ``batch_ptr`` holds the batch index of each row's sequence, at which its block
table and its adapters' weights are on the device. A row with a negative position is padding: it writes nothing.
``PAGE``: tokens of a block of the KV cache. All arithmetic is float32; tensors are in the model's dtype.

``EARLY``: programmatic dependent launch (CUDA programming guide). A kernel starts while the last one still runs, reads
at most weights, and waits for the end of the last one before anything else. Each kernel must wait: the next relies
on it.
"""

from functools import cache

import torch
import triton
import triton.language as tl

from app.engine.cuda.lora_kernels import expand_row
from app.quantization.kernels import e4m3


def early(rows: int, device: torch.device) -> dict[str, bool]:
    """Launch options for ``rows`` rows: `EARLY` for one row, where the hardware can. More rows gained nothing."""
    return {"EARLY": True, "launch_pdl": True} if rows == 1 and _starts_early(device) else {}


@cache
def _starts_early(device: torch.device) -> bool:
    able = device.type == "cuda" and torch.version.cuda is not None
    return able and torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def let_next_start(EARLY: tl.constexpr):
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def await_last(EARLY: tl.constexpr):
    if EARLY:
        tl.extra.cuda.gdc_wait()


@triton.jit
def add_norm(
    x_ptr, delta_ptr, weight_ptr, out_ptr, batch_ptr, z_ptr, b_ptr, lora_ptr, ranges_ptr, eps, width, columns,
    lora_stride, part_size, PARTS: tl.constexpr, BLOCK: tl.constexpr, LORA: tl.constexpr, LORA_BLOCK: tl.constexpr,
    EARLY: tl.constexpr = False,
):  # fmt: skip
    """x += the sum of ``PARTS`` deltas (none at first) and LoRA's; out = RMSNorm(x)."""
    let_next_start(EARLY)
    await_last(EARLY)
    row = tl.program_id(0).to(tl.int64)
    offset = tl.arange(0, BLOCK)
    inside = offset < width
    x = tl.load(x_ptr + row * width + offset, mask=inside, other=0.0)
    if PARTS > 0:
        delta = tl.load(delta_ptr + row * width + offset, mask=inside, other=0.0).to(tl.float32)
        for part in tl.static_range(1, PARTS):
            delta += tl.load(delta_ptr + part * part_size + row * width + offset, mask=inside, other=0.0)
        if LORA:
            batch_index = tl.load(batch_ptr + row)
            low, high = tl.load(ranges_ptr + 2 * batch_index), tl.load(ranges_ptr + 2 * batch_index + 1)
            more = expand_row(
                z_ptr + row * columns, b_ptr, lora_ptr + batch_index * lora_stride, low, high, 0, width, offset,
                inside, 1, LORA_BLOCK,
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
    qkv_ptr, bias_ptr, cos_ptr, sin_ptr, positions_ptr, batch_ptr, tables_ptr, q_ptr, k_ptr, v_ptr,
    z_ptr, bq_ptr, bk_ptr, bv_ptr, lora_ptr, ranges_ptr, table_width, columns, lora_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr, GROUP: tl.constexpr,
    LORA: tl.constexpr, LORA_BLOCK: tl.constexpr, EARLY: tl.constexpr = False,
):  # fmt: skip
    """Bias, LoRA and rotary embedding of ``GROUP`` heads of a row; queries to q, keys and values to their block."""
    let_next_start(EARLY)
    await_last(EARLY)
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * GROUP
    position = tl.load(positions_ptr + row)
    if position < 0:
        return
    batch_index = tl.load(batch_ptr + row)
    Q: tl.constexpr = HEADS * DIM
    KV: tl.constexpr = KV_HEADS * DIM
    HALF: tl.constexpr = DIM // 2
    is_query = head < HEADS
    is_key = (head >= HEADS) & (head < HEADS + KV_HEADS)
    lane = tl.arange(0, GROUP * HALF)
    low = lane // HALF * DIM + lane % HALF  # the first half of each head, and the second
    high = low + HALF
    everywhere = lane >= 0
    source = head * DIM
    x = qkv_ptr + row * (Q + 2 * KV) + source
    first = tl.load(x + low).to(tl.float32) + tl.load(bias_ptr + source + low).to(tl.float32)
    second = tl.load(x + high).to(tl.float32) + tl.load(bias_ptr + source + high).to(tl.float32)
    if LORA:
        begin, end = tl.load(ranges_ptr + 2 * batch_index), tl.load(ranges_ptr + 2 * batch_index + 1)
        lora_weights = lora_ptr + batch_index * lora_stride
        z = z_ptr + row * 3 * columns
        if is_query:
            first += expand_row(z, bq_ptr, lora_weights, begin, end, source, Q, low, everywhere, 3, LORA_BLOCK)
            second += expand_row(z, bq_ptr, lora_weights, begin, end, source, Q, high, everywhere, 3, LORA_BLOCK)
        elif is_key:
            first += expand_row(z + 1, bk_ptr, lora_weights, begin, end, source - Q, KV, low, everywhere, 3, LORA_BLOCK)
            second += expand_row(
                z + 1, bk_ptr, lora_weights, begin, end, source - Q, KV, high, everywhere, 3, LORA_BLOCK
            )
        else:
            start = source - Q - KV
            first += expand_row(z + 2, bv_ptr, lora_weights, begin, end, start, KV, low, everywhere, 3, LORA_BLOCK)
            second += expand_row(z + 2, bv_ptr, lora_weights, begin, end, start, KV, high, everywhere, 3, LORA_BLOCK)
    kind = qkv_ptr.dtype.element_ty
    # rounded to the model's dtype here, as transformers' own projection is
    first, second = first.to(kind).to(tl.float32), second.to(kind).to(tl.float32)
    if head < HEADS + KV_HEADS:
        cos = tl.load(cos_ptr + position * HALF + lane % HALF)
        sin = tl.load(sin_ptr + position * HALF + lane % HALF)
        first, second = first * cos - second * sin, second * cos + first * sin
    if is_query:
        target = q_ptr + row * Q + source
    else:
        page = tl.load(tables_ptr + batch_index.to(tl.int64) * table_width + position // PAGE).to(tl.int64)
        slot = (page * PAGE + position % PAGE) * KV
        if is_key:
            target = k_ptr + slot + source - Q
        else:
            target = v_ptr + slot + source - Q - KV
    tl.store(target + low, first.to(kind))
    tl.store(target + high, second.to(kind))


@triton.jit
def silu_mul(
    both_ptr, out_ptr, batch_ptr, z_ptr, bg_ptr, bu_ptr, lora_ptr, ranges_ptr, width, columns, lora_stride,
    BLOCK: tl.constexpr, LORA: tl.constexpr, LORA_BLOCK: tl.constexpr, EARLY: tl.constexpr = False,
):  # fmt: skip
    let_next_start(EARLY)
    await_last(EARLY)
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * BLOCK
    offset = tl.arange(0, BLOCK)
    inside = start + offset < width
    gate = tl.load(both_ptr + row * 2 * width + start + offset, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both_ptr + row * 2 * width + width + start + offset, mask=inside, other=0.0).to(tl.float32)
    kind = out_ptr.dtype.element_ty
    if LORA:
        batch_index = tl.load(batch_ptr + row)
        low, high = tl.load(ranges_ptr + 2 * batch_index), tl.load(ranges_ptr + 2 * batch_index + 1)
        lora_weights = lora_ptr + batch_index * lora_stride
        z_row = z_ptr + row * 2 * columns
        gate += expand_row(z_row, bg_ptr, lora_weights, low, high, start, width, offset, inside, 2, LORA_BLOCK)
        up += expand_row(z_row + 1, bu_ptr, lora_weights, low, high, start, width, offset, inside, 2, LORA_BLOCK)
        gate, up = gate.to(kind).to(tl.float32), up.to(kind).to(tl.float32)
    gate = (gate / (1.0 + tl.exp(-gate))).to(kind).to(tl.float32)
    tl.store(out_ptr + row * width + start + offset, (gate * up).to(kind), mask=inside)


@triton.jit
def gemv(
    x_ptr, weight_ptr, scale_ptr, out_ptr, a_ptr, z_ptr, outputs, inputs,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr, SCALED: tl.constexpr, BITS: tl.constexpr = False,
    EARLY: tl.constexpr = False,
):  # fmt: skip
    """One vector times a matrix [outputs, inputs], bound by reading the matrix, which begins early.

    Programs beyond its rows go on with LoRA's A, into z. ``SCALED``: the matrix is int8 or float8 with one scale per
    row. ``BITS``: float8 comes as its bits, for devices that do not know it.
    """
    let_next_start(EARLY)
    row = tl.program_id(0) * ROWS
    lora = row >= outputs
    if lora:
        row -= outputs
    rows = row + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    place = rows[:, None].to(tl.int64) * inputs + column[None, :]
    if lora:
        await_last(EARLY)
        total = tl.zeros([ROWS, BLOCK], tl.float32)
        for start in range(0, inputs, BLOCK):
            inside = start + column < inputs
            weight = tl.load(a_ptr + place + start, mask=inside[None, :], other=0.0)
            x = tl.load(x_ptr + start + column, mask=inside, other=0.0)
            total += weight.to(tl.float32) * x.to(tl.float32)[None, :]
        tl.store(z_ptr + rows, tl.sum(total, 1).to(z_ptr.dtype.element_ty))
    else:
        inside = column < inputs
        weight = tl.load(weight_ptr + place, mask=inside[None, :], other=0.0, eviction_policy="evict_first")
        await_last(EARLY)
        x = tl.load(x_ptr + column, mask=inside, other=0.0)
        if BITS:
            weight = e4m3(weight)
        total = weight.to(tl.float32) * x.to(tl.float32)[None, :]
        for start in tl.range(BLOCK, inputs, BLOCK, loop_unroll_factor=2):
            if EVEN:
                weight = tl.load(weight_ptr + place + start, eviction_policy="evict_first")
                x = tl.load(x_ptr + start + column)
            else:
                inside = start + column < inputs
                weight = tl.load(
                    weight_ptr + place + start, mask=inside[None, :], other=0.0, eviction_policy="evict_first"
                )
                x = tl.load(x_ptr + start + column, mask=inside, other=0.0)
            if BITS:
                weight = e4m3(weight)
            total += weight.to(tl.float32) * x.to(tl.float32)[None, :]
        summed = tl.sum(total, 1)
        if SCALED:
            summed *= tl.load(scale_ptr + rows).to(tl.float32)
        if BITS:
            summed *= 256.0
        tl.store(out_ptr + rows, summed.to(out_ptr.dtype.element_ty))


@triton.jit
def skinny(
    x_ptr, weight_ptr, scale_ptr, out_ptr, a_ptr, z_ptr, rows, outputs, columns, inputs, per_part,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr, SCALED: tl.constexpr,
    BITS: tl.constexpr = False,
):  # fmt: skip
    """A few rows times a matrix [outputs, inputs]; each program of the second axis sums its ``per_part`` of inputs.

    Programs beyond its rows go on with LoRA's A [columns, inputs], into z, without splitting the inputs. ``SCALED`` and
    ``BITS``: as in `gemv`.
    """
    first = tl.program_id(0) * OUTPUTS
    part = tl.program_id(1)
    lora = first >= outputs
    if lora:
        first -= outputs
    output = first + tl.arange(0, OUTPUTS)
    row, column = tl.arange(0, ROWS), tl.arange(0, BLOCK)
    place = output[:, None].to(tl.int64) * inputs + column[None, :] + part * per_part
    xs = x_ptr + row[:, None] * inputs + column[None, :] + part * per_part
    total = tl.zeros([ROWS, OUTPUTS], tl.float32)
    if lora:
        for start in range(0, per_part, BLOCK):
            weight = tl.load(a_ptr + place + start)
            x = tl.load(xs + start, mask=row[:, None] < rows, other=0.0)
            total = tl.dot(x, tl.trans(weight), total, input_precision="ieee")
        z = z_ptr + row[:, None] * columns + output[None, :]
        tl.store(z, total.to(z_ptr.dtype.element_ty), mask=row[:, None] < rows)
    else:
        for start in tl.range(0, per_part, BLOCK, num_stages=STAGES):
            weight = tl.load(weight_ptr + place + start)
            x = tl.load(xs + start, mask=row[:, None] < rows, other=0.0)
            if BITS:
                weight = e4m3(weight)
            total = tl.dot(x, tl.trans(weight.to(x.dtype)), total, input_precision="ieee")
        if SCALED:
            total *= tl.load(scale_ptr + output).to(tl.float32)[None, :]
        if BITS:
            total *= 256.0
        out = out_ptr + part * rows * outputs + row[:, None] * outputs + output[None, :]
        tl.store(out, total.to(out_ptr.dtype.element_ty), mask=row[:, None] < rows)


@triton.jit
def add_layer_norm(
    x_ptr, delta_ptr, weight_ptr, bias_ptr, out_ptr, eps, width, ADD: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """x += delta (with ``ADD``); out = LayerNorm(x)."""
    row = tl.program_id(0).to(tl.int64)
    offset = tl.arange(0, BLOCK)
    inside = offset < width
    x = tl.load(x_ptr + row * width + offset, mask=inside, other=0.0)
    if ADD:
        x = (x.to(tl.float32) + tl.load(delta_ptr + row * width + offset, mask=inside, other=0.0).to(tl.float32)).to(
            x.dtype
        )
        tl.store(x_ptr + row * width + offset, x, mask=inside)
    wide = x.to(tl.float32)
    mean = tl.sum(wide, 0) / width
    centred = tl.where(inside, wide - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    weight = tl.load(weight_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + offset, (centred * scale * weight + bias).to(x.dtype), mask=inside)


@triton.jit
def peaks(
    logits_ptr, value_ptr, index_ptr, width, SPLITS: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr = False
):  # fmt: skip
    """The largest logit of a part of a row and its index, the first of equals; NaN where any is not finite."""
    let_next_start(EARLY)
    await_last(EARLY)
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    per_split = tl.cdiv(width, SPLITS)
    low = split * per_split
    high = tl.minimum(low + per_split, width)
    lane = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], -float("inf"), tl.float32)
    where = tl.full([BLOCK], 2147483647, tl.int32)
    broken = tl.zeros([BLOCK], tl.int32)
    for start in range(low, high, BLOCK):
        place = start + lane
        inside = place < high
        value = tl.load(logits_ptr + row * width + place, mask=inside, other=0.0).to(tl.float32)
        finite = tl.abs(value) < float("inf")  # false for NaN too
        broken |= (inside & (finite == 0)).to(tl.int32)
        better = inside & (value > best)
        best, where = tl.where(better, value, best), tl.where(better, place, where)
    top = tl.max(best, 0)
    first = tl.min(tl.where(best == top, where, 2147483647), 0)
    lost = tl.max(broken, 0) > 0
    tl.store(value_ptr + row * SPLITS + split, tl.where(lost, float("nan"), top))
    tl.store(index_ptr + row * SPLITS + split, first)
