"""Every projection in passes of every number of rows that takes another way, against plain transformers + PEFT.

The products run in Triton's interpreter as they do on CUDA, in float16 (the interpreter has no product in bfloat16).
tests/gpu does the same with the compiled kernels.
"""

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton; without a GPU its interpreter is enough")
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the kernels themselves"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, at NaN
]

from app.engine import fused, products  # noqa: E402, only where there is Triton
from tests.engine.passes import MIX, PROJECTIONS, Passes, draw_rows, make_all  # noqa: E402
from tests.support import random_model  # noqa: E402

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
    monkeypatch.setattr(products, "_compiled", lambda x: True)
    monkeypatch.setattr(fused, "_PROGRAMS", 16)  # few parts of a context: each program takes the interpreter its time


def check(errors, effects=True):
    """Near the reference, and far nearer than the base is: an adapter left out would be seen."""
    assert max(error for error, _ in errors.values()) < TOLERANCE, errors
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


@pytest.mark.parametrize("rows", [1, 2, 16, 33, 64, 65])
@pytest.mark.parametrize("float8", [False, True])
def test_a_product_and_its_parts(rows, float8):
    """z comes in the dtype of x, whatever dtype the parts have."""
    torch.manual_seed(0)
    matrix = products.Matrix.of(torch.randn(128, 512).half(), float8)
    x, a = torch.randn(rows, 512).half(), torch.randn(64, 512).half()
    own = matrix.weight.float() if matrix.small is None or rows > 64 else matrix.small.float() * matrix.scale[:, None]
    wanted, wanted_z = x.float() @ own.t(), x.float() @ a.float().t()
    parts = products.parts_of(x, matrix)
    assert parts == (4 if 1 < rows <= 64 else 1)
    for shape in {(rows, 128), (parts, rows, 128) if parts > 1 else (rows, 128)}:
        out = torch.full(shape, torch.nan, dtype=torch.float32 if len(shape) == 3 else torch.float16)
        z = products.product(x, matrix, out, a)
        assert z.dtype == x.dtype
        assert torch.allclose(out.float().view(-1, rows, 128).sum(0), wanted, atol=0.1, rtol=0.01)
        assert torch.allclose(z.float(), wanted_z, atol=0.1, rtol=0.01)
