"""From logits to tokens. Randomness is one uniform number a token, drawn from (seed, position) alone."""

import random
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from app.engine.request import Sampling, Sequence

_LOST = -1  # stands for the token of a row that is not finite


@dataclass(frozen=True)
class Drawn:
    """Tokens of a step, possibly still being computed: ``ids`` [rows] on the device, ``host`` on its way here."""

    ids: torch.Tensor
    host: torch.Tensor
    arrived: "torch.cuda.Event | None"

    def result(self) -> list[int | None]:
        """One token a row, waiting for it; None where the logits held NaN or infinity."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return [None if token == _LOST else token for token in self.host.tolist()]


def draw(logits: torch.Tensor, sequences: Rows[Sequence]) -> Drawn:
    """The next token of each sequence from its row of ``logits`` [rows, vocabulary]. Does not wait for the device."""
    ids = choose(
        logits, [s.request.sampling for s in sequences], [s.tokens for s in sequences], [s.length for s in sequences]
    )
    if not ids.is_cuda:
        return Drawn(ids, ids, None)
    host = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True)
    host.copy_(ids, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    return Drawn(ids, host, arrived)


def choose(
    logits: torch.Tensor, samplings: Rows[Sampling], seen: Rows[Rows[int]], positions: Rows[int]
) -> torch.Tensor:
    """One token a row of ``logits`` [rows, vocabulary], on their device; `_LOST` where a row is not finite.

    ``seen``: prompt and answer so far of each row, for the repetition penalty. ``positions``: of the new tokens.
    The order is transformers': repetition penalty, temperature, top-k, top-p.
    """
    finite = torch.isfinite(logits).all(-1)
    if any(sampling.repetition_penalty != 1.0 for sampling in samplings):
        logits = logits.float().clone()
        for row, (sampling, tokens) in enumerate(zip(samplings, seen, strict=True)):
            if sampling.repetition_penalty != 1.0:
                _penalise(logits[row], tokens, sampling.repetition_penalty)
    ids = logits.argmax(-1)
    for row, (sampling, position) in enumerate(zip(samplings, positions, strict=True)):
        if not sampling.greedy:
            ids[row] = _draw(logits[row].float(), sampling, position)
    return torch.where(finite, ids, _LOST)


def _penalise(logits: torch.Tensor, tokens: Rows[int], penalty: float) -> None:
    """Repetition penalty in place (CTRL, Keskar et al., 2019)."""
    index = torch.tensor(sorted(set(tokens)), device=logits.device)
    scores = logits[index]
    logits[index] = torch.where(scores < 0, scores * penalty, scores / penalty)


def _draw(logits: torch.Tensor, sampling: Sampling, position: int) -> torch.Tensor:
    """One draw from the filtered distribution of one row [vocabulary]."""
    # the likeliest becomes 0 first, so that no temperature overflows
    scores, order = ((logits - logits.max()) / sampling.temperature).sort(descending=True)
    if sampling.top_k:
        scores, order = scores[: sampling.top_k], order[: sampling.top_k]
    probabilities = scores.softmax(-1, dtype=torch.float64)
    reached = probabilities.cumsum(-1)
    kept = reached - probabilities < sampling.top_p  # a beginning of the order
    kept[0] = True
    uniform = random.Random(f"{sampling.seed}:{position}").random()
    limit = torch.where(kept, reached, 0.0).max()
    rank = torch.searchsorted(reached, (limit * uniform)[None], right=True)
    return order[torch.minimum(rank, kept.sum() - 1)][0]
