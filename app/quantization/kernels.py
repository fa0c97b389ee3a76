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
    """A tile of the weights, in any layout. ``WORDS``: of a block of int4 numbers; ``ZERO``: there are zero points."""
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
def dequantize_bytes(
    data_ptr, scale_ptr, out_ptr, outputs, inputs, BITS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """A tile of int8 or float8 weights with one scale per output. ``BITS``: float8 comes as its bits."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    column = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside = (row < outputs) & (column < inputs)
    scale = tl.load(scale_ptr + row, mask=row < outputs, other=0.0)
    place = row.to(tl.int64) * inputs + column
    stored = tl.load(data_ptr + place, mask=inside, other=0.0)
    if BITS:
        number = e4m3(stored).to(tl.float32) * 256.0
    else:
        number = stored.to(tl.float32)
    weight = (number * scale.to(tl.float32)).to(scale.dtype)
    tl.store(out_ptr + place, weight.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def dequantize_int4(
    data_ptr, scale_ptr, zero_ptr, out_ptr, outputs, inputs, groups, GROUP: tl.constexpr, ZERO: tl.constexpr,
    ROWS: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """A tile of int4 weights in blocks of 16 words, 128 inputs, each within one group; every word is read once."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None].to(tl.int64)
    word = (tl.program_id(1) * WORDS + tl.arange(0, WORDS))[None, :]
    inside = (row < outputs) & (word < inputs // 8)
    words = tl.load(data_ptr + row * (inputs // 8) + word, mask=inside, other=0)
    first = word // 16 * 128
    place = row * groups + first // GROUP
    scale = tl.load(scale_ptr + place, mask=inside, other=0)
    zero = tl.full([ROWS, WORDS], 8.0, tl.float32)
    if ZERO:
        zero += tl.load(zero_ptr + place, mask=inside, other=0).to(tl.float32)
    out = out_ptr + row * inputs + first + word % 16
    for place_in_word in tl.static_range(8):
        number = ((words >> (4 * place_in_word)) & 15).to(tl.float32) - zero
        weight = (number * scale.to(tl.float32)).to(scale.dtype)
        tl.store(out + 16 * place_in_word, weight.to(out_ptr.dtype.element_ty), mask=inside)
