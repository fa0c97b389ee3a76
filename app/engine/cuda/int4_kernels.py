"""Triton kernels for a few rows times an int4 matrix. Import this module only where Triton is installed."""

import triton
import triton.language as tl

from app.engine.cuda.kernels import await_last, let_next_start


@triton.jit
def gemv_int4(
    x_ptr, data_ptr, scale_ptr, zero_ptr, out_ptr, a_ptr, z_ptr, outputs, inputs, groups, GROUP: tl.constexpr,
    ZERO: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr = False,
):  # fmt: skip
    """One vector times an int4 matrix [outputs, inputs], in blocks of 16 words, 128 inputs, each within one group.

    A number n is made a float by its bits: 0x43000000 + (n << 16) is 128 + n. Sums of a word's eight products are
    scaled at once. Programs beyond the rows of the matrix go on with LoRA's A [columns, inputs], into z.
    """
    let_next_start(EARLY)
    first = tl.program_id(0) * ROWS
    lora = first >= outputs
    if lora:
        first -= outputs
    rows = first + tl.arange(0, ROWS)
    if lora:
        column = tl.arange(0, BLOCK)
        place = rows[:, None].to(tl.int64) * inputs + column[None, :]
        await_last(EARLY)
        sums = tl.zeros([ROWS, BLOCK], tl.float32)
        for start in range(0, inputs, BLOCK):
            inside = start + column < inputs
            weight = tl.load(a_ptr + place + start, mask=inside[None, :], other=0.0)
            x = tl.load(x_ptr + start + column, mask=inside, other=0.0)
            sums += weight.to(tl.float32) * x.to(tl.float32)[None, :]
        tl.store(z_ptr + rows, tl.sum(sums, 1).to(z_ptr.dtype.element_ty))
    else:
        word = tl.arange(0, WORDS)
        data = data_ptr + rows[:, None].to(tl.int64) * (inputs // 8) + word[None, :]
        in_blocks = x_ptr + word // 16 * 128 + word % 16
        total = tl.zeros([ROWS, WORDS], tl.float32)
        await_last(EARLY)
        for start in range(0, inputs // 8, WORDS):
            inside = start + word < inputs // 8
            words = tl.load(data + start, mask=inside[None, :], other=0, eviction_policy="evict_first")
            found, sum_of_x = tl.zeros([ROWS, WORDS], tl.float32), tl.zeros([WORDS], tl.float32)
            for place_in_word in tl.static_range(8):
                x = tl.load(in_blocks + 8 * start + 16 * place_in_word, mask=inside, other=0.0).to(tl.float32)
                if place_in_word < 4:
                    bits = words << (16 - 4 * place_in_word)
                else:
                    bits = words >> (4 * place_in_word - 16)
                number = ((bits & 0x000F0000) | 0x43000000).to(tl.float32, bitcast=True)
                found += number * x[None, :]
                sum_of_x += x
            group = rows[:, None].to(tl.int64) * groups + ((start + word) // 16 * 128 // GROUP)[None, :]
            zero = tl.full([ROWS, WORDS], 136.0, tl.float32)
            if ZERO:
                zero += tl.load(zero_ptr + group, mask=inside[None, :], other=0).to(tl.float32)
            scale = tl.load(scale_ptr + group, mask=inside[None, :], other=0.0).to(tl.float32)
            total += scale * (found - zero * sum_of_x[None, :])
        tl.store(out_ptr + rows, tl.sum(total, 1).to(out_ptr.dtype.element_ty))


@triton.jit
def skinny_int4(
    x_ptr, data_ptr, scale_ptr, zero_ptr, out_ptr, a_ptr, z_ptr, rows, outputs, columns, inputs, per_part, group,
    groups, MAGIC: tl.constexpr, OFFSET: tl.constexpr, ZERO: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """A few rows times an int4 matrix [outputs, inputs]; each program of the second axis sums ``per_part`` inputs.

    Inputs come in blocks of 128, 16 words, each within one group. ``MAGIC``: bits of the number ``OFFSET`` in x's
    dtype, whose last four bits are units, so that a number is made by or instead of a conversion. Programs beyond the
    rows of the matrix go on with LoRA's A [columns, inputs], into z, without splitting the inputs.
    """
    first = tl.program_id(0) * OUTPUTS
    part = tl.program_id(1)
    lora = first >= outputs
    if lora:
        first -= outputs
    output = (first + tl.arange(0, OUTPUTS)).to(tl.int64)
    row, word, column = tl.arange(0, ROWS), tl.arange(0, 16), tl.arange(0, 128)
    valid = row[:, None] < rows
    total = tl.zeros([ROWS, OUTPUTS], tl.float32)
    if lora:
        for start in range(0, inputs, 128):
            weight = tl.load(a_ptr + output[:, None] * inputs + start + column[None, :])
            x = tl.load(x_ptr + row[:, None] * inputs + start + column[None, :], mask=valid, other=0.0)
            total = tl.dot(x, tl.trans(weight), total, input_precision="ieee")
        tl.store(z_ptr + row[:, None] * columns + output[None, :], total.to(z_ptr.dtype.element_ty), mask=valid)
    else:
        for block in tl.range(part * per_part // 128, (part + 1) * per_part // 128, num_stages=STAGES):
            words = tl.load(data_ptr + output[:, None] * (inputs // 8) + block * 16 + word[None, :])
            place = output * groups + block * 128 // group
            zero = tl.full([OUTPUTS], OFFSET + 8, tl.float32)
            if ZERO:
                zero += tl.load(zero_ptr + place).to(tl.float32)
            found = tl.zeros([ROWS, OUTPUTS], tl.float32)
            for place_in_word in tl.static_range(8):
                x = tl.load(
                    x_ptr + row[:, None] * inputs + block * 128 + place_in_word * 16 + word[None, :],
                    mask=valid,
                    other=0.0,
                )
                bits = (((words >> (4 * place_in_word)) & 15) | MAGIC).to(tl.int16)
                number = bits.to(x.dtype, bitcast=True) - zero.to(x.dtype)[:, None]
                found = tl.dot(x, tl.trans(number), found, input_precision="ieee")
            total += found * tl.load(scale_ptr + place).to(tl.float32)[None, :]
        out = out_ptr + part * rows * outputs + row[:, None] * outputs + output[None, :]
        tl.store(out, total.to(out_ptr.dtype.element_ty), mask=valid)
