"""Triton kernels that add LoRA's second product. Import this module only where Triton is installed.

Each reads the columns of a row's own adapters and nothing else: what lies in another adapter's columns, NaN and
infinities included, takes part in no arithmetic of that row. Sums are float32.
"""

import triton
import triton.language as tl


@triton.jit
def expand_row(
    z_row, b, lora_weights, low, high, out_start, out_stride, offsets, inside, PLACES: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Sum over a row's own columns of lora_weight · z[column] · B[column, output], for ``offsets`` of the outputs.

    ``PLACES``: the projections whose z lie side by side, by which two columns of one of them are apart.
    """
    total = tl.zeros(offsets.shape, tl.float32)
    for first in range(low, high, BLOCK):
        column = first + tl.arange(0, BLOCK)
        lora_weight = tl.load(lora_weights + column, mask=column < high, other=0.0)
        used = lora_weight != 0.0
        z = tl.load(z_row + column * PLACES, mask=used, other=0.0).to(tl.float32) * lora_weight
        rows = tl.load(
            b + column[:, None].to(tl.int64) * out_stride + out_start + offsets[None, :],
            mask=used[:, None] & inside[None, :],
            other=0.0,
        )
        total += tl.sum(z[:, None] * rows.to(tl.float32), 0)
    return total


@triton.jit(do_not_specialize=["tiles"])
def expand(
    out_ptr, z_ptr, b_ptr, tiles_ptr, decoding_ptr, batch_ptr, lora_ptr, ranges_ptr, tiles, out_stride, z_stride,
    lora_stride, width, PLACES: tl.constexpr, PLACE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, DECODING: tl.constexpr,
):  # fmt: skip
    """out [rows, width] += (z · lora_weights) B, whatever dtype ``out`` has.

    Programs take the rows of a tile, all of one sequence, as in `attend_prefill`; those beyond ``tiles`` take one
    row each, with ``DECODING`` only those that decode. z [rows, columns, PLACES]; B [columns, width].
    """
    index = tl.program_id(0)
    if index < tiles:
        first = tl.load(tiles_ptr + 4 * index)
        count = tl.load(tiles_ptr + 4 * index + 1)
        batch_index = tl.load(tiles_ptr + 4 * index + 3)
    else:
        first = index - tiles
        count = 1
        if DECODING:
            count = tl.where(tl.load(decoding_ptr + first) >= 0, 1, 0)
        batch_index = tl.load(batch_ptr + first)
    low, high = tl.load(ranges_ptr + 2 * batch_index), tl.load(ranges_ptr + 2 * batch_index + 1)
    if low == high:
        return
    offset = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < width
    lora_weights = lora_ptr + batch_index.to(tl.int64) * lora_stride
    for begin in range(0, count, ROWS):
        place = begin + tl.arange(0, ROWS)
        valid = place < count
        row = (first + place).to(tl.int64)
        total = tl.zeros([ROWS, BLOCK], tl.float32)
        for start in range(low, high, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            lora_weight = tl.load(lora_weights + column, mask=column < high, other=0.0)
            used = lora_weight != 0.0
            z = tl.load(
                z_ptr + row[:, None] * z_stride + column[None, :] * PLACES + PLACE,
                mask=valid[:, None] & used[None, :],
                other=0.0,
            )
            b = tl.load(
                b_ptr + column[:, None].to(tl.int64) * width + offset[None, :],
                mask=used[:, None] & inside[None, :],
                other=0.0,
            )
            weighted = (z.to(tl.float32) * lora_weight[None, :]).to(b.dtype)
            total = tl.dot(weighted, b, total, input_precision="ieee")
        out = out_ptr + row[:, None] * out_stride + offset[None, :]
        own = valid[:, None] & inside[None, :]
        before = tl.load(out, mask=own, other=0.0).to(tl.float32)
        tl.store(out, (before + total).to(out_ptr.dtype.element_ty), mask=own)
