"""Triton kernels over weights at rest. Import this module only where Triton is installed."""

import triton
import triton.language as tl


@triton.jit
def e4m3(bits):
    """float8's numbers divided by 256, in float16, from their bits: also on devices that know no float8."""
    wide = bits.to(tl.int16)
    return (((wide & 0x80) << 8) | ((wide & 0x7F) << 7)).to(tl.float16, bitcast=True)


@triton.jit
def dequantize_kernel(
    data_ptr, scale_ptr, zero_ptr, out_ptr, outputs, inputs, group, groups, KIND: tl.constexpr, WORDS: tl.constexpr,
    ZERO: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A tile of the weights. ``WORDS``: of a block of int4 numbers; ``ZERO``: there are zero points."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None].to(tl.int64)
    column = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside = (row < outputs) & (column < inputs)
    if KIND == "int4":
        within = column % (8 * WORDS)
        word = column // (8 * WORDS) * WORDS + within % WORDS
        words = tl.load(data_ptr + row * (inputs // 8) + word, mask=inside, other=0)
        number = (((words >> (4 * (within // WORDS))) & 15) - 8).to(tl.float32)
    elif KIND == "float8":
        number = e4m3(tl.load(data_ptr + row * inputs + column, mask=inside, other=0)).to(tl.float32) * 256.0
    else:
        number = tl.load(data_ptr + row * inputs + column, mask=inside, other=0).to(tl.float32)
    place = row * groups + column // group
    if ZERO:
        number -= tl.load(zero_ptr + place, mask=inside, other=0).to(tl.float32)
    scale = tl.load(scale_ptr + place, mask=inside, other=0)
    weight = (number * scale.to(tl.float32)).to(scale.dtype)
    tl.store(out_ptr + row * inputs + column, weight.to(out_ptr.dtype.element_ty), mask=inside)


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
