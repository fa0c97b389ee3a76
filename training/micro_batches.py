"""The micro-batches of a run, chosen for the memory that a device has left."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.models.shape import WEIGHTS, ModelShape
from app.models.training_memory import Batch, activation_bytes
from training.examples import Example


@dataclass(frozen=True)
class MicroBatches:
    """How a step is computed: padded tokens of a micro-batch at most, and whether activations are checkpointed."""

    tokens: int
    checkpointing: bool


def plan_micro_batches(
    shape: ModelShape,
    rows: Sequence[Example],
    most: int,
    left: int,
    *,
    itemsize: int,
    tower_trained: bool = False,
    weights: str = WEIGHTS[0],
) -> MicroBatches:
    """The micro-batches that fit ``left`` bytes beside the model, the adapter and the optimiser.

    ``most``: tokens that the options allow. ``weights``: the format that the base lies in. Activations are checkpointed
    only where one row does not fit without. Where it does not fit with that either, one row is tried all the same, for
    the figures are on the high side.
    """
    longest = max(len(row.ids) for row in rows)
    supervised = max(len(row.labels) / len(row.ids) for row in rows)  # of each token: shorter rows may come together
    clips = max(len(row.clips) / len(row.ids) for row in rows) if tower_trained else 0
    for checkpointing in (False, True):
        for tokens in range(max(1, most // longest) * longest, 0, -longest):
            batch = Batch(tokens, math.ceil(tokens * supervised), math.ceil(tokens * clips))
            needed = activation_bytes(shape, batch, itemsize=itemsize, checkpointing=checkpointing, weights=weights)
            if needed <= left:
                return MicroBatches(tokens, checkpointing)
    return MicroBatches(longest, True)
