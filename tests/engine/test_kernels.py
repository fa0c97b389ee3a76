"""Each kernel against torch in float32, in Triton's interpreter where there is no GPU."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

triton = pytest.importorskip("triton", reason="needs Triton; without a GPU its interpreter is enough")

from app.engine.cuda import (  # noqa: E402
    attention_kernels,
    kernels,
    linear,
)
from app.engine.cuda.int4_kernels import gemv_int4, skinny_int4  # noqa: E402
from app.quantization import on_cuda  # noqa: E402
from app.quantization.formats import FORMATS, QuantizedMatrix, quantize  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # NumPy's, at NaN
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape).to(DEVICE, dtype)


def ints(values):
    return torch.tensor(values, device=DEVICE, dtype=torch.int32)


def lora(batch=3, columns=16, poison=True):
    """Weights and ranges by batch index: none, columns 3 to 5, columns 8 to 15 with a gap."""
    lora_weights = torch.zeros(batch, columns, device=DEVICE)
    lora_weights[1, 3:6], lora_weights[2, 8:10], lora_weights[2, 14:16] = 0.5, 1.0, -2.0
    return lora_weights, ints([[0, 0], [3, 6], [8, 16]])


def poisoned(z, lora_weights, batch):
    """``z`` [rows, parts, columns] with NaN wherever a row has no share."""
    own = lora_weights[batch.long()][:, None]
    return torch.where(own != 0, z, NAN), torch.where(own != 0, z * own, 0.0)


def beside(z):
    """``z`` as the products write it: [rows, columns, parts]."""
    return z.transpose(1, 2).contiguous()


@pytest.mark.parametrize("parts", [0, 1, 4])
@pytest.mark.parametrize("adapters", [False, True])
def test_add_norm(parts, adapters):
    rows, width, columns = 3, 48, 16
    x, weight, b = random(rows, width), random(width), random(columns, width)
    deltas, batch = random(max(parts, 1), rows, width), ints([2, 0, 1])
    lora_weights, ranges = lora()
    z, own = poisoned(random(rows, 1, columns), lora_weights, batch)
    wanted = x + deltas[:parts].sum(0)
    if parts and adapters:
        wanted = wanted + own[:, 0] @ b
    out = torch.empty_like(x)
    kernels.add_norm[(rows,)](
        x, deltas, weight, out, batch, z, b, lora_weights, ranges, 1e-6, width, columns, columns, rows * width,
        PARTS=parts, BLOCK=64, LORA=adapters, LORA_BLOCK=4,
    )  # fmt: skip
    assert torch.allclose(x, wanted, atol=1e-5)
    assert torch.allclose(out, F.rms_norm(wanted, (width,), weight, 1e-6), atol=1e-5)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("adapters", [False, True])
def test_rope_write(group, adapters):
    """Queries to their rows, keys and values to their pages; a row of padding writes nothing."""
    heads, kv_heads, dim, page, columns = 4, 2, 8, 4, 16
    q_width, kv_width, half = heads * dim, kv_heads * dim, dim // 2
    positions, batch, tables = ints([6, -1, 0]), ints([1, 0, 2]), ints([[0, 0], [5, 3], [1, 0]])
    rows = len(positions)
    qkv, bias = random(rows, q_width + 2 * kv_width), random(q_width + 2 * kv_width)
    angles = torch.arange(8, device=DEVICE)[:, None] * torch.rand(half, device=DEVICE)
    lora_weights, ranges = lora()
    z, own = poisoned(random(rows, 3, columns), lora_weights, batch)
    b = [random(columns, width) for width in (q_width, kv_width, kv_width)]
    q = torch.full((rows, q_width), NAN, device=DEVICE)
    keys, values = (torch.full((24, kv_width), NAN, device=DEVICE) for _ in range(2))
    kernels.rope_write[(rows, (heads + 2 * kv_heads) // group)](
        qkv, bias, angles.cos(), angles.sin(), positions, batch, tables, q, keys, values, beside(z), *b, lora_weights,
        ranges, 2, columns, columns, HEADS=heads, KV_HEADS=kv_heads, DIM=dim, PAGE=page, GROUP=group, LORA=adapters,
        LORA_BLOCK=8,
    )  # fmt: skip
    whole = qkv + bias
    if adapters:
        whole = whole + torch.cat([own[:, index] @ each for index, each in enumerate(b)], 1)
    for row, slot in ((0, 3 * page + 2), (2, page)):
        angle = angles[positions[row].long()]
        cos, sin = (torch.cat([part, part]) for part in (angle.cos(), angle.sin()))
        turned = whole[row].view(-1, dim)
        turned = turned * cos + torch.cat([-turned[:, half:], turned[:, :half]], 1) * sin
        assert torch.allclose(q[row], turned[:heads].flatten(), atol=1e-5)
        assert torch.allclose(keys[slot], turned[heads : heads + kv_heads].flatten(), atol=1e-5)
        assert torch.allclose(values[slot], whole[row, q_width + kv_width :], atol=1e-5)
    assert q[1].isnan().all()
    assert int((~keys.isnan()).any(1).sum()) == int((~values.isnan()).any(1).sum()) == 2


HEADS, KV_HEADS, DIM, PAGE = 4, 2, 16, 16
SHAPE = {"HEADS": HEADS, "KV_HEADS": KV_HEADS, "DIM": DIM, "PAGE": PAGE}


def paged(lengths):
    """Keys and values of sequences in pages out of order, NaN wherever nothing lies, and the page tables."""
    free = [7, 2, 9, 4, 1, 8, 3, 6]
    keys, values = (torch.full((10 * PAGE, KV_HEADS, DIM), NAN, device=DEVICE) for _ in range(2))
    tables, whole = torch.zeros(len(lengths), 4, dtype=torch.int32), []
    for index, length in enumerate(lengths):
        own = random(2, length, KV_HEADS, DIM)
        for page in range(-(-length // PAGE)):
            tables[index, page] = free.pop()
            part = own[:, page * PAGE : (page + 1) * PAGE]
            first = int(tables[index, page]) * PAGE
            keys[first : first + part.shape[1]], values[first : first + part.shape[1]] = part
        whole.append(own)
    return keys, values, tables.to(DEVICE), whole


def attention(queries, own, start):
    """``queries`` [rows, heads, dim] at ``start`` and on, over keys and values [2, length, kv heads, dim]."""
    key, value = (each.repeat_interleave(HEADS // KV_HEADS, 1).transpose(0, 1) for each in own)
    seen = torch.ones(len(queries), own.shape[1], dtype=torch.bool, device=DEVICE).tril(start)
    return F.scaled_dot_product_attention(queries.transpose(0, 1), key, value, attn_mask=seen).transpose(0, 1)


@pytest.mark.parametrize("splits", [1, 4])
def test_attend_decode(splits):
    """Contexts of three pages, of one token, and padding; more splits than the short ones have blocks."""
    keys, values, tables, whole = paged([41, 1])
    positions, batch = ints([40, 0, -1]), ints([0, 1, 0])
    q = random(3, HEADS, DIM)
    out, parts = torch.empty_like(q), random(3 * HEADS * splits, DIM)
    stats = random(3 * HEADS * splits, 2)
    attention_kernels.attend_decode[(3, HEADS, splits)](
        q, keys, values, positions, batch, tables, parts, stats, out, DIM**-0.5, 4, **SHAPE,
        SPLITS=splits, BLOCK=16, STAGES=1,
    )  # fmt: skip
    if splits > 1:
        attention_kernels.join_splits[(3 * HEADS,)](parts, stats, out, DIM=DIM, SPLITS=splits)
    for row, own in enumerate(whole):
        assert torch.allclose(out[row], attention(q[row : row + 1], own, own.shape[1] - 1)[0], atol=1e-5)
    assert torch.isfinite(out[2]).all()


def test_attend_prefill():
    """The second chunk of a prompt, in two tiles, beside a whole one and an empty tile."""
    keys, values, tables, whole = paged([45, 7])
    q = random(27, HEADS, DIM)
    out = torch.full_like(q, NAN)
    tiles = ints([[0, 16, 25, 0], [16, 4, 41, 0], [20, 7, 0, 1], [0, 0, 0, 0]])
    attention_kernels.attend_prefill[(len(tiles), HEADS)](
        q, keys, values, tiles, tables, out, DIM**-0.5, 4, **SHAPE, ROWS=16, BLOCK=16, STAGES=1
    )
    assert torch.allclose(out[:20], attention(q[:20], whole[0], 25), atol=1e-5)
    assert torch.allclose(out[20:], attention(q[20:], whole[1], 0), atol=1e-5)


@pytest.mark.parametrize("adapters", [False, True])
def test_silu_mul(adapters):
    rows, width, columns = 3, 40, 16
    both, batch = random(rows, 2 * width), ints([1, 2, 0])
    lora_weights, ranges = lora()
    z, own = poisoned(random(rows, 2, columns), lora_weights, batch)
    b = [random(columns, width) for _ in range(2)]
    out = random(rows, width)
    kernels.silu_mul[(rows, 2)](
        both,
        out,
        batch,
        beside(z),
        *b,
        lora_weights,
        ranges,
        width,
        columns,
        columns,
        BLOCK=32,
        LORA=adapters,
        LORA_BLOCK=8,
    )
    gate, up = both.split(width, 1)
    if adapters:
        gate, up = gate + own[:, 0] @ b[0], up + own[:, 1] @ b[1]
    assert torch.allclose(out, F.silu(gate) * up, atol=1e-5)


@pytest.mark.parametrize("add", [False, True])
def test_add_layer_norm(add):
    x, delta, weight, bias = random(3, 48), random(3, 48), random(48), random(48)
    wanted, out = x + delta if add else x.clone(), torch.empty_like(x)
    kernels.add_layer_norm[(3,)](x, delta, weight, bias, out, 1e-5, 48, ADD=add, BLOCK=64)
    assert torch.allclose(x, wanted)
    assert torch.allclose(out, F.layer_norm(wanted, (48,), weight, bias), atol=1e-5)


FORMS = ("plain", "int8", "float8", "float8 bits")


def matrix_of(form, outputs, inputs):
    """A random matrix as a kernel takes it (weights, scales, further arguments), and its numbers in float32."""
    weight = random(outputs, inputs)
    if form == "plain":
        return weight, weight, {}, weight
    matrix = quantize(weight, form.split()[0])
    data = matrix.data.view(torch.float8_e4m3fn) if form == "float8" else matrix.data
    return data, matrix.scale, {"SCALED": True, "BITS": form == "float8 bits"}, matrix.dequantize(torch.float32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("columns", [0, 16])
@pytest.mark.parametrize("inputs", [64, 96])
def test_gemv(form, columns, inputs):
    data, scale, options, weight = matrix_of(form, 24, inputs)
    x, a = random(1, inputs), random(16, inputs)
    out, z = random(1, 24), random(1, 16)
    kernels.gemv[((24 + columns) // 8,)](
        x, data, scale, out, a, z, 24, inputs, ROWS=8, BLOCK=64, EVEN=inputs % 64 == 0, **({"SCALED": False} | options)
    )
    assert torch.allclose(out, x @ weight.t(), atol=1e-4)
    if columns:
        assert torch.allclose(z, x @ a.t(), atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("parts", [1, 2])
def test_skinny(form, parts):
    """LoRA's A goes along where the inputs are not split."""
    rows, columns = 5, 0 if parts > 1 else 16
    data, scale, options, weight = matrix_of(form, 32, 64)
    x, a = random(rows, 64), random(16, 64)
    out, z = random(parts, rows, 32), random(rows, 16)
    kernels.skinny[((32 + columns) // 16, parts)](
        x, data, scale, out, a, z, rows, 32, columns, 64, 64 // parts, ROWS=16, OUTPUTS=16, BLOCK=32, STAGES=1,
        **({"SCALED": False} | options),
    )  # fmt: skip
    assert torch.allclose(out.sum(0), x @ weight.t(), atol=1e-4)
    if columns:
        assert torch.allclose(z, x @ a.t(), atol=1e-4)


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_skinny_int4(parts, zero_points, groups):
    """Groups of 128 inputs, or one for all, as other makers write it; with LoRA's A where the inputs are not split."""
    rows, columns, inputs = 5, 0 if parts > 1 else 16, 512
    own = quantize(random(32, inputs), "int4")
    matrix = QuantizedMatrix(
        "int4", own.data, own.scale[:, :groups].contiguous(), own.zero_point[:, :groups].contiguous()
    )
    if not zero_points:
        matrix = replace(matrix, zero_point=None)
    x, a = random(rows, inputs, dtype=torch.float16), random(16, inputs, dtype=torch.float16)
    out, z = random(parts, rows, 32), random(rows, 16)
    skinny_int4[((32 + columns) // 16, parts)](
        x, matrix.data, matrix.scale, matrix.zero_point if zero_points else x, out, a, z, rows, 32, columns, inputs,
        inputs // parts, inputs // groups, groups, MAGIC=0x6400, OFFSET=1024, ZERO=zero_points, ROWS=16, OUTPUTS=16,
        STAGES=1,
    )  # fmt: skip
    exact = replace(matrix, scale=matrix.scale.float()).dequantize(torch.float32)
    assert torch.allclose(out.sum(0), x.float() @ exact.t(), atol=2e-3, rtol=1e-4)
    if columns:
        assert torch.allclose(z, x.float() @ a.float().t(), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("groups", [1, 9])
@pytest.mark.parametrize("columns", [0, 8])
def test_gemv_int4(columns, zero_points, groups):
    """Inputs that fill the last iteration in part; with LoRA's A and without."""
    inputs = 9 * 128
    own = quantize(random(16, inputs), "int4")
    matrix = QuantizedMatrix(
        "int4", own.data, own.scale[:, :groups].contiguous(), own.zero_point[:, :groups].contiguous()
    )
    if not zero_points:
        matrix = replace(matrix, zero_point=None)
    x, a = random(1, inputs, dtype=torch.float16), random(8, inputs, dtype=torch.float16)
    out, z = random(1, 16), random(1, 8)
    gemv_int4[((16 + columns) // 4,)](
        x, matrix.data, matrix.scale, matrix.zero_point if zero_points else x, out, a, z, 16, inputs, groups,
        GROUP=inputs // groups, ZERO=zero_points, ROWS=4, WORDS=64, BLOCK=512,
    )  # fmt: skip
    exact = replace(matrix, scale=matrix.scale.float()).dequantize(torch.float32)
    assert torch.allclose(out, x.float() @ exact.t(), atol=2e-3, rtol=1e-4)
    if columns:
        assert torch.allclose(z, x.float() @ a.float().t(), atol=2e-3, rtol=1e-3)


def test_numbers_of_int4_by_their_bits():
    """Both halves have 2^k with units in the last bit, so that `or` adds a number from 0 to 15 to it."""
    for dtype, (magic, offset) in linear._MAGIC.items():
        bits = torch.tensor([magic | number for number in range(16)], dtype=torch.int16)
        assert bits.view(dtype).tolist() == [offset + number for number in range(16)]
        assert all(float(torch.tensor(offset + number, dtype=dtype)) == offset + number for number in range(32))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("inputs", [96, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_dequantize(kind, inputs, dtype):
    """To the bit what the formats' own arithmetic gives; without zero points and with several scales too."""
    matrix = quantize(random(10, inputs), kind)
    forms = [matrix, replace(matrix, zero_point=None)]
    if kind == "int8":
        forms.append(
            replace(matrix, scale=torch.rand(10, 4, device=DEVICE), zero_point=ints([[1, -3, 0, 7]] * 10).char())
        )
    for form in forms:
        assert torch.equal(on_cuda.dequantize(form, dtype), form.dequantize(dtype))


def test_likeliest():
    """The first of equals, also across parts; NaN and infinities are told, and harm no other row."""
    logits = random(6, 3000)
    logits[0, [100, 2000, 2999]] = 50.0
    logits[1, [1000, 1001]] = 50.0
    logits[2, 2999], logits[3, 5], logits[4, 1500] = NAN, INF, -INF
    logits[5] = -1e30
    finite, ids = linear.finite_argmax(logits)
    assert finite.tolist() == [True, True, False, False, False, True]
    assert ids[[0, 1, 5]].tolist() == [100, 1000, 0]
