"""`--dry-run`: time, memory and steps of a run, measured from a few of its steps."""

import statistics
import time
from dataclasses import dataclass

import torch

from app.errors import BadRequest
from training.batches import epoch
from training.data.checks.sound_checks import Measures
from training.data.rows import Row
from training.memory import peak_gb
from training.run import Run

STEPS = 4  # measured; the first, with the longest rows, warms up and shows the memory


@dataclass(frozen=True)
class Estimate:
    """Seconds and GB of a whole run. ``hearing_seconds``: to encode all recordings once."""

    rows: int
    steps: int
    trainable: int
    step_seconds: float
    training_seconds: float
    hearing_seconds: float
    cache_gb: float
    memory_gb: float


def estimate(run: Run) -> Estimate:
    """Train a few steps on a sample of the rows, the longest among them; publish and keep nothing.

    Raises BadRequest for a head.
    """
    options, data = run.options, run.data
    if options.method == "head":
        raise BadRequest("A head is trained in seconds once its recordings are encoded: there is no --dry-run of it.")
    longest = sorted(data.train, key=lambda row: _seconds(run, row), reverse=True)
    sample = list(dict.fromkeys([*longest[: options.batch], *data.train[: STEPS * options.batch]]))
    began = time.monotonic()
    examples = run.examples(sample)
    encoding = (time.monotonic() - began) / max(1e-9, sum(_seconds(run, row) for row in sample))
    total_seconds = sum(_seconds(run, row) for row in [*data.train, *data.validation])
    adapted, trainer = run.trainer(examples, examples[:1])
    steps = sorted(epoch(examples, options.batch, options.seed, 0), key=lambda step: -max(len(e.ids) for e in step))
    times = []
    for rows in steps[:STEPS]:
        began = time.monotonic()
        trainer.step(rows)
        if run.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.monotonic() - began)
    per_step = statistics.mean(times[1:] or times)
    per_epoch = -(-len(data.train) // options.batch)
    whole = min(options.max_steps or 10**9, max(1, round(options.epochs * per_epoch)))
    trainable = sum(parameter.numel() for parameter in adapted.trainable.values())
    adapted.unload()
    return Estimate(
        rows=len(data.train),
        steps=whole,
        trainable=trainable,
        step_seconds=round(per_step, 3),
        training_seconds=round(per_step * whole, 1),
        hearing_seconds=round(encoding * total_seconds, 1),
        cache_gb=round(total_seconds * 25 * run.loaded.spec.tower_width * run.loaded.dtype.itemsize / 1e9, 3),
        memory_gb=round(peak_gb(run.device), 2),
    )


def _seconds(run: Run, row: Row) -> float:
    measured = (run.data.measured[sound] for sound in row.sounds)
    return sum(one.seconds for one in measured if isinstance(one, Measures))
