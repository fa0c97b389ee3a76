"""From logits to tokens. Randomness is one uniform number a token, drawn from (seed, position) alone."""

import random
from collections.abc import Sequence

import torch

from app.engine.request import Sampling


def choose(logits: torch.Tensor, samplings: Sequence[Sampling], seen: Sequence[Sequence[int]]) -> list[int | None]:
    """One token a row of ``logits`` [rows, vocabulary]; None where a row holds NaN or infinity.

    ``seen``: prompt and answer so far of each row; their length is the position of the new token.
    The order is transformers': repetition penalty, temperature, top-k, top-p.
    """
    logits = logits.float()
    finite = torch.isfinite(logits).all(-1).tolist()
    for row, (sampling, tokens) in enumerate(zip(samplings, seen, strict=True)):
        if sampling.repetition_penalty != 1.0:
            _penalise(logits[row], tokens, sampling.repetition_penalty)
    ids: list[int] = logits.argmax(-1).tolist()
    for row, (sampling, tokens) in enumerate(zip(samplings, seen, strict=True)):
        if finite[row] and not sampling.greedy:
            ids[row] = _draw(logits[row], sampling, len(tokens))
    return [token if ok else None for token, ok in zip(ids, finite, strict=True)]


def _penalise(logits: torch.Tensor, tokens: Sequence[int], penalty: float) -> None:
    """Repetition penalty in place (CTRL, Keskar et al., 2019)."""
    index = torch.tensor(sorted(set(tokens)), device=logits.device)
    scores = logits[index]
    logits[index] = torch.where(scores < 0, scores * penalty, scores / penalty)


def _draw(logits: torch.Tensor, sampling: Sampling, position: int) -> int:
    """One draw from the filtered distribution of one row [vocabulary]."""
    # the likeliest becomes 0 first, so that no temperature overflows
    scores, order = ((logits - logits.max()) / sampling.temperature).sort(descending=True)
    if sampling.top_k:
        scores, order = scores[: sampling.top_k], order[: sampling.top_k]
    probabilities = scores.softmax(-1, dtype=torch.float64)
    reached = probabilities.cumsum(-1)
    kept = reached - probabilities < sampling.top_p
    kept[0] = True
    reached = reached[kept]
    uniform = random.Random(f"{sampling.seed}:{position}").random()
    rank = int(torch.searchsorted(reached, reached[-1] * uniform, right=True))
    return int(order[min(rank, len(reached) - 1)])
