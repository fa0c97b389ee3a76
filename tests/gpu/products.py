"""How long the language model's products take, by rows and format: from this table the sizes of a packed pass and the
ways of a product are chosen.

Run it on a GPU: `python tests/gpu/products.py`, or with the formats to measure: `… plain int4`.
"""

import statistics
import sys
from collections.abc import Callable

import torch

from app.engine.cuda.linear import SCRATCH, Matrix, parts_of, product
from app.quantization.formats import FORMATS, quantize

MATRICES = ((12288, 4096), (4096, 4096), (22016, 4096), (4096, 11008))  # q, k and v; o; gate and up; down
LAYERS = 32
COPIES = 3  # by turns, so that no matrix is found in the cache
REPEATS = 5
FEW = (1, 2, 4, 8, 16, 32, 48, 64)


def milliseconds(rows: int, outputs: int, inputs: int, form: str, scratch: torch.Tensor) -> float:
    """One product as the decoder computes it, the median of replays of a graph of several."""
    weights = [torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16) for _ in range(COPIES)]
    matrices = [Matrix(one) if form == "plain" else Matrix(quantize(one, form), scratch) for one in weights]  # type: ignore[arg-type]
    del weights
    x = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
    parts = parts_of(x, matrices[0])
    out = torch.empty(rows, outputs, device="cuda", dtype=torch.bfloat16)
    if parts > 1:
        out = torch.empty(parts, rows, outputs, device="cuda")
    return timed([lambda matrix=matrix: product(x, matrix, out) for matrix in matrices])  # type: ignore[misc]


def tinygemm(rows: int, outputs: int, inputs: int) -> float:
    """torch's own int4 product, for comparison."""
    packed, scales = [], torch.rand(inputs // 128, outputs, 2, device="cuda", dtype=torch.bfloat16)
    for _ in range(COPIES):
        numbers = torch.randint(0, 255, (outputs, inputs // 2), device="cuda", dtype=torch.uint8)
        packed.append(torch.ops.aten._convert_weight_to_int4pack(numbers, 8))
    x = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
    return timed([lambda one=one: torch.ops.aten._weight_int4pack_mm(x, one, 128, scales) for one in packed])  # type: ignore[misc]


def timed(calls: list[Callable[[], object]]) -> float:
    """Milliseconds per call, in a CUDA graph."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls * 2:
            call()
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / len(calls) / 2)
    return statistics.median(times)


if __name__ == "__main__":
    forms = sys.argv[1:] or ["plain", *FORMATS, "tinygemm"]
    scratch = torch.empty(SCRATCH, device="cuda", dtype=torch.bfloat16)
    print("ms of all layers\nrows  " + "  ".join(f"{form:>8}" for form in forms))  # noqa: T201
    for rows in (*FEW, *range(128, 1025, 128)):
        cells = []
        for form in forms:
            each = (
                tinygemm(rows, *shape) if form == "tinygemm" else milliseconds(rows, *shape, form, scratch)
                for shape in MATRICES
            )
            cells.append(f"{LAYERS * sum(each):8.2f}")
        print(f"{rows:4}  " + "  ".join(cells), flush=True)  # noqa: T201
