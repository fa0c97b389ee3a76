"""One table per run: memory, decode rate and first token of the 7B model in each format of the weights.

Run it on a GPU: `python tests/gpu/formats.py`, or with the formats to measure: `… bfloat16 int4`.
"""

import gc
import sys
import tempfile
import time
from pathlib import Path

import torch

from app.bench.latency import figures
from app.bench.measure import measure_engine
from app.bench.workload import Case, say_words, write_all
from app.models.weights.at_rest import Weights
from app.models.weights.random_weights import random_weights
from app.quantization.formats import FORMATS
from app.service import Service
from app.settings import EMBEDDED_MODEL, Settings

CASES = (Case(1, 1), Case(8, 8), Case(32, 8))
NEW = 64
REPEATS = 3
FIRST_TOKENS = 4  # of the figures of latency, those of first tokens are the first


def measure(weights: Weights) -> str:
    """A row of the table."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loaded = say_words(random_weights("7b", str(EMBEDDED_MODEL), torch.device("cuda"), torch.bfloat16, weights))
    held = sum(parameter.nbytes for parameter in loaded.model.parameters()) / 1e9
    torch.cuda.empty_cache()
    size = (torch.cuda.memory_allocated() - before) / 1e9
    peak = (torch.cuda.max_memory_allocated() - before) / 1e9
    with tempfile.TemporaryDirectory() as folder:
        made = write_all(loaded, Path(folder) / "made", CASES)
        began = time.monotonic()
        settings = Settings(_env_file=None, adapters=Path(folder) / "registry")  # type: ignore[call-arg]
        service = Service.over(settings, loaded)
        warm = time.monotonic() - began
        try:
            for name, adapter in made.items():
                service.registry.publish(adapter, name)
            rates = [measure_engine(service, case, NEW, REPEATS).decode_rate for case in CASES]
            waits = [
                figure for _, (_, figure, _) in zip(range(FIRST_TOKENS), figures(service, 8, 1, str), strict=False)
            ]
        finally:
            service.close()
    cells = [weights, f"{held:.2f}", f"{size:.2f}", f"{peak:.2f}", *(f"{rate:.0f}" for rate in rates)]
    cells += [*(f"{wait:.1f}" for wait in waits), f"{warm:.0f}"]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["bfloat16", *FORMATS]
    columns = ["weights", "held GB", "allocated GB", "peak while loading GB", *(f"{case} tok/s" for case in CASES)]
    columns += ["first token 30 s ms", "with an adapter ms", "5 s ms", "with an adapter ms", "warm s"]
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns), flush=True)  # noqa: T201
    for one in chosen:
        print(measure(one), flush=True)  # type: ignore[arg-type]  # noqa: T201
        gc.collect()
        torch.cuda.empty_cache()
