"""Every projection in passes of every number of rows that takes another way, against plain transformers + PEFT.

The products run in Triton's interpreter as they do on CUDA, in float16 (the interpreter has no product in bfloat16).
tests/gpu does the same with the compiled kernels.
"""

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton; without a GPU its interpreter is enough")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the kernels themselves"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, at NaN
]

from app.engine.cuda import language_model, linear  # noqa: E402
from app.engine.cuda.packed_weights import pack_layers  # noqa: E402
from app.quantization.formats import FORMATS, QuantizedMatrix, quantize  # noqa: E402
from app.quantization.linear import QuantizedLinear  # noqa: E402
from tests.engine.passes import MIX, PROJECTIONS, Passes, draw_rows, make_all  # noqa: E402
from tests.support import at_rest, random_model  # noqa: E402

# Widths whose products are split into parts; one layer is enough, since the second would repeat the first.
SIZES = dict(hidden_size=256, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=512)
SINGLE = [((name, 1.0),) for name in PROJECTIONS]
EACH = [*SINGLE, MIX, ()]
TOLERANCE = 0.01  # of float16, against float32 on the same weights


@pytest.fixture(scope="module")
def loaded():
    return random_model(dtype=torch.float16, **SIZES)


@pytest.fixture(scope="module")
def folders(loaded, tmp_path_factory):
    return make_all(loaded, tmp_path_factory.mktemp("projections"))


@pytest.fixture(scope="module")
def passes(loaded, folders):
    return Passes(random_model(dtype=torch.float16, **SIZES), folders)


@pytest.fixture(autouse=True)
def _as_on_cuda(monkeypatch):
    monkeypatch.setattr(linear, "_compiled", lambda x: True)
    monkeypatch.setattr(language_model, "_PROGRAMS", 16)  # few parts: each takes the interpreter time


def check(errors, effects=True, tolerance=TOLERANCE):
    """Near the reference, and far nearer than the base is: an adapter left out would be seen."""
    assert max(error for error, _ in errors.values()) < tolerance, errors
    for name, (error, effect) in errors.items() if effects else ():
        assert name == "base" or effect > 5 * error, (name, errors)


# padded to 64 rows up to 64, whose split sums are float32; to 128 beyond
@pytest.mark.parametrize(("tokens", "mixes"), [
    (1, [SINGLE[-1]]), (2, [SINGLE[6]]), (8, [SINGLE[3], MIX]), (16, [SINGLE[4], SINGLE[7], (), SINGLE[0]]),
    (63, EACH), (64, EACH), (65, EACH),
])  # fmt: skip
def test_prompts(passes, tokens, mixes):
    rows = draw_rows(len(mixes), tokens, passes.vocabulary, mixes)
    check(passes.errors(rows, passes.prefill(rows)), effects=tokens > 8)
    passes.end(rows)


@pytest.mark.parametrize("count", [1, 2, 8, 16, 63, 65])
def test_answers(passes, count):
    """One token of so many sequences, padded to 1, 2, 8, 16, 64 and 80 rows."""
    rows = draw_rows(count, 2 * count, passes.vocabulary, EACH if count > 8 else EACH[3:])
    for first in range(0, count, 32):
        passes.prefill(rows[first : first + 32])
    check(passes.errors(rows, passes.decode(rows, 7)))
    passes.end(rows)


@pytest.mark.parametrize(("prompt", "answers"), [(20, 3), (90, 11)])
def test_prompts_beside_answers(passes, prompt, answers):
    """A chunk of prompts behind the tokens of sequences that decode, in parts and whole."""
    old = draw_rows(answers, 4 * answers, passes.vocabulary, EACH)
    passes.prefill(old)
    new = draw_rows(5, prompt, passes.vocabulary, EACH[3:], seed=1)
    for row in old:
        row.ids.append(9)
    logits = passes.step(*((row, 1) for row in old), *((row, len(row.ids)) for row in new))
    check(passes.errors([*old, *new], logits))
    passes.end([*old, *new])


FORMS = (None, *FORMATS)


def test_passes_over_int4(folders):
    """A prompt, one that is computed in a pass of many rows, and answers. Kernels do not round the weights to float16
    as the reference does, which an adapter on k makes visible."""
    passes = Passes(at_rest(random_model(dtype=torch.float16, **SIZES), "int4"), folders)
    rows = draw_rows(1, 3, passes.vocabulary, [MIX])
    check(passes.errors(rows, passes.prefill(rows)), effects=False, tolerance=0.03)
    check(passes.errors(rows, passes.decode(rows, 7)), tolerance=0.03)
    many = draw_rows(1, 65, passes.vocabulary, [()])
    check(passes.errors(many, passes.prefill(many)), tolerance=0.03)


@pytest.mark.parametrize("rows", [1, 2, 16, 64, 65])
@pytest.mark.parametrize("kind", FORMS)
def test_a_product_and_its_parts(rows, kind):
    """z comes in the dtype of x, whatever dtype the parts have."""
    torch.manual_seed(0)
    weight = torch.randn(128, 512).half()
    held = weight if kind is None else quantize(weight, kind)
    matrix = linear.Matrix(held)
    x, a = torch.randn(rows, 512).half(), torch.randn(64, 512).half()
    own = weight.float() if kind is None else held.dequantize(torch.float32)
    wanted, wanted_z = x.float() @ own.t(), x.float() @ a.float().t()
    parts = linear.parts_of(x, matrix)
    assert parts == (4 if 2 <= rows <= 64 else 1)
    for shape in {(rows, 128), (parts, rows, 128) if parts > 1 else (rows, 128)}:
        out = torch.full(shape, torch.nan, dtype=torch.float32 if len(shape) == 3 else torch.float16)
        z = linear.product(x, matrix, out, a)
        assert z.dtype == x.dtype
        assert torch.allclose(out.float().view(-1, rows, 128).sum(0), wanted, atol=0.1, rtol=0.01)
        assert torch.allclose(z.float(), wanted_z, atol=0.1, rtol=0.01)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rows", [1, 40, 70])
def test_forms_that_no_kernel_reads_are_dequantised_in_parts(kind, rows, monkeypatch):
    """Small groups, several scales for an output, and outputs that do not fill a program."""
    torch.manual_seed(0)
    monkeypatch.setattr(linear, "SCRATCH", 24 * 256)
    matrix = quantize(torch.randn(72, 256), kind)
    if kind == "int4":
        small = QuantizedMatrix(kind, matrix.data, torch.rand(72, 8).half(), torch.randint(-8, 8, (72, 8)).char())
    else:
        small = QuantizedMatrix(kind, matrix.data, torch.rand(72, 4), None)
    x, out = torch.randn(rows, 256), torch.full((rows, 72), torch.nan)
    assert linear.product(x, linear.Matrix(small), out) is None
    assert torch.allclose(out, x @ small.dequantize(torch.float32).t(), rtol=1e-4, atol=1e-3 * float(out.abs().max()))


def test_projections_of_several_forms_become_plain():
    """As checkpoints have them that leave some layers out; each gives what it gave."""
    torch.manual_seed(0)
    parent = torch.nn.ModuleDict({name: torch.nn.Linear(64, 64, bias=False) for name in ("q", "k", "v")})
    parent["q"], parent["k"] = QuantizedLinear.of(parent["q"], "int8"), QuantizedLinear.of(parent["k"], "int4")
    wanted = torch.cat([parent[name].weight for name in ("q", "k", "v")])
    matrix = pack_layers(parent, ("q", "k", "v"), None)
    assert torch.equal(matrix.weight, wanted)
    assert torch.equal(parent["q"].weight, wanted[:64])
    assert parent["k"].weight.data_ptr() == matrix.weight[64:].data_ptr()


@pytest.mark.parametrize("kind", FORMATS)
def test_packed_projections_at_rest_are_views(kind):
    torch.manual_seed(0)
    parent = torch.nn.ModuleDict({name: torch.nn.Linear(128, 64, bias=False) for name in ("q", "k")})
    for name in ("q", "k"):
        parent[name] = QuantizedLinear.of(parent[name], kind)
    wanted = torch.cat([parent[name].weight for name in ("q", "k")])
    matrix = pack_layers(parent, ("q", "k"), None)
    assert torch.equal(matrix.weight.dequantize(torch.float32), wanted)
    assert torch.equal(parent["k"].weight, wanted[64:])
    assert parent["k"].data.data_ptr() == matrix.weight.data[64:].data_ptr()
