"""Every projection in passes of every number of rows that takes another way, at 7B's widths, against PEFT in float32.

And what lies in a neighbour's columns, which changes no bit.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
pytest.importorskip("triton")

from app.quantization.formats import FORMATS, QuantizedMatrix  # noqa: E402
from tests.engine.passes import MIX, PROJECTIONS, Passes, draw_rows, make_all  # noqa: E402
from tests.engine.test_isolation import INF, LARGE, NAN, compare  # noqa: E402
from tests.gpu.test_full_size import build  # noqa: E402
from tests.support import at_rest  # noqa: E402

SINGLE = [((name, 1.0),) for name in PROJECTIONS]
EACH: list[Any] = [*SINGLE, MIX, ()]
# relative errors of logits: of three and eight bits more or fewer than bfloat16 has, and of float32's sums
TOLERANCES = {torch.bfloat16: 0.02, torch.float16: 0.003, torch.float32: 1e-4}
AT_REST = 2  # times that: kernels of few rows do not round the weights to the dtype, as the reference does


# dtypes, and each format of weights at rest in both halves: the reference computes with the dequantised weights
KINDS = [(dtype, None) for dtype in TOLERANCES] + [
    (dtype, kind) for dtype in (torch.bfloat16, torch.float16) for kind in FORMATS
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1] or 'plain'}".removeprefix("torch."))
def passes(request: Any, tmp_path_factory: Any) -> Iterator[Passes]:
    """Two layers of the 7B model in each dtype and format."""
    torch.backends.cuda.matmul.allow_tf32 = False
    dtype, kind = request.param
    loaded = build(2, dtype)
    if kind is not None:
        loaded = at_rest(loaded, kind)
    root: Path = tmp_path_factory.mktemp("projections")
    yield Passes(loaded, make_all(loaded, root, std=0.02), rows=1024)
    del loaded
    torch.cuda.empty_cache()


def check(passes: Passes, rows: Any, logits: torch.Tensor) -> None:
    """Near the reference, and nearer than it would be without the adapter."""
    errors = passes.errors(rows, logits)
    allowed = TOLERANCES[passes.decoder._embeddings.dtype]
    allowed *= AT_REST if isinstance(passes.decoder._model._lm_head.weight, QuantizedMatrix) else 1
    assert max(error for error, _ in errors.values()) < allowed, errors
    for name, (error, effect) in errors.items():
        assert name in ("base", "q", "k") or effect > 2 * error, (name, errors)


@pytest.mark.parametrize("tokens", [1, 2, 8, 16])
def test_each_projection_in_a_short_prompt(passes: Passes, tokens: int) -> None:
    for seed, mix in enumerate(EACH):
        rows = draw_rows(1, tokens, passes.vocabulary, [mix], seed)
        check(passes, rows, passes.prefill(rows))
        passes.end(rows)


@pytest.mark.parametrize("tokens", [63, 64, 65, 128, 130, 300, 832, 1024])
def test_all_projections_in_one_pass(passes: Passes, tokens: int) -> None:
    """Twice: the second is replayed from a graph."""
    for seed in range(2):
        rows = draw_rows(len(EACH), tokens, passes.vocabulary, EACH, seed)
        check(passes, rows, passes.prefill(rows))
        passes.end(rows)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 16, 33, 63, 64, 65, 96])
def test_answers(passes: Passes, count: int) -> None:
    for mixes in [[mix] for mix in EACH] if count < 3 else [EACH]:
        rows = draw_rows(count, 3 * count, passes.vocabulary, mixes)
        passes.prefill(rows)
        for token in (7, 11):
            check(passes, rows, passes.decode(rows, token))
        passes.end(rows)


@pytest.mark.parametrize(("prompt", "answers"), [(3, 3), (40, 11), (60, 4), (200, 30)])
def test_prompts_beside_answers(passes: Passes, prompt: int, answers: int) -> None:
    old = draw_rows(answers, 4 * answers, passes.vocabulary, EACH)
    passes.prefill(old)
    new = draw_rows(min(5, prompt), prompt, passes.vocabulary, EACH[3:], seed=1)
    for row in old:
        row.ids.append(9)
    logits = passes.step(*((row, 1) for row in old), *((row, len(row.ids)) for row in new))
    check(passes, [*old, *new], logits)
    passes.end([*old, *new])


@pytest.mark.parametrize("planted", [(NAN, NAN), (INF, -INF), (1.0, INF), (LARGE, LARGE)])
@pytest.mark.parametrize("prompts", [15, 63, 70, 400])
def test_a_neighbour_s_columns_change_no_bit(passes: Passes, planted: Any, prompts: int) -> None:
    compare(passes, planted, prompts, answers=3)
