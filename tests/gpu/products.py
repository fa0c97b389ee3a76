"""How long the language model's products take, by rows: the table from which the sizes of a packed pass are chosen.

Run it on a GPU: `python tests/gpu/products.py`.
"""

import statistics

import torch

MATRICES = ((12288, 4096), (4096, 4096), (22016, 4096), (4096, 11008))  # q, k and v; o; gate and up; down
LAYERS = 32
COPIES = 3  # by turns, so that no matrix is found in the cache
REPEATS = 5


def milliseconds(rows: int, outputs: int, inputs: int) -> float:
    """One product, the median of replays of a graph of several."""
    weights = [torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16) for _ in range(COPIES)]
    x = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
    out = torch.empty(rows, outputs, device="cuda", dtype=torch.bfloat16)

    def run() -> None:
        for weight in weights * 2:
            torch.mm(x, weight.t(), out=out)

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / len(weights) / 2)
    return statistics.median(times)


if __name__ == "__main__":
    print("rows  ms of all layers")  # noqa: T201
    for rows in range(16, 1025, 16):
        print(f"{rows:4}  {LAYERS * sum(milliseconds(rows, *matrix) for matrix in MATRICES):.2f}", flush=True)  # noqa: T201
