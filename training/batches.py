"""The rows of each step: seeded, bucketed by length, the same after a restart."""

import random
from collections.abc import Iterator, Sequence

from training.examples import Example

BUCKET = 32  # batches that are sorted by length together


def epoch(examples: Sequence[Example], batch: int, seed: int, number: int) -> list[list[Example]]:
    """The steps of one epoch, each ``batch`` examples of like length (the last of a bucket may have fewer).

    Depends on its arguments alone, so that a resumed run goes on with the rows it would have had.
    """
    drawn = random.Random(f"{seed}:{number}")
    order = drawn.sample(range(len(examples)), len(examples))
    steps: list[list[int]] = []
    for first in range(0, len(order), BUCKET * batch):
        bucket = sorted(order[first : first + BUCKET * batch], key=lambda place: len(examples[place].ids))
        steps += [bucket[start : start + batch] for start in range(0, len(bucket), batch)]
    drawn.shuffle(steps)
    return [[examples[place] for place in step] for step in steps]


def micro_batches(step: Sequence[Example], tokens: int) -> Iterator[list[Example]]:
    """Split a step so that each piece has at most ``tokens`` padded tokens, or one example."""
    piece: list[Example] = []
    for example in sorted(step, key=lambda example: len(example.ids)):
        if piece and len(example.ids) * (len(piece) + 1) > tokens:
            yield piece
            piece = []
        piece.append(example)
    if piece:
        yield piece
