"""From logits to tokens. Randomness is one uniform number a token, drawn from (seed, position) alone."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from app.engine.grammar import Grammar
from app.engine.request import Logprobs, Sampling


@dataclass(frozen=True)
class Choice:
    """The next token of a row, with log probabilities where they were asked for."""

    token: int
    logprobs: Logprobs | None = None


def choose(
    logits: torch.Tensor,
    samplings: Sequence[Sampling],
    seen: Sequence[Sequence[int]],
    grammars: Sequence[Grammar | None],
) -> list[Choice | None]:
    """One token a row of ``logits`` [rows, vocabulary]; None where a row is not finite, or its grammar at an end.

    ``seen``: prompt and answer so far of each row; their length is the position of the new token.
    The order is transformers': grammar, repetition penalty, temperature, top-k, top-p. Log probabilities are
    the model's own, before all of them, as in vLLM.
    """
    logits = logits.float()
    usable = torch.isfinite(logits).all(-1).tolist()
    raw = {row: logits[row].log_softmax(-1) for row, sampling in enumerate(samplings) if sampling.logprobs is not None}
    for row, (sampling, tokens, grammar) in enumerate(zip(samplings, seen, grammars, strict=True)):
        if grammar:
            usable[row] &= _constrain(logits[row], grammar)
        if sampling.repetition_penalty != 1.0:
            _penalise(logits[row], tokens, sampling.repetition_penalty)
    ids: list[int] = logits.argmax(-1).tolist()
    for row, (sampling, tokens) in enumerate(zip(samplings, seen, strict=True)):
        if usable[row] and not sampling.greedy:
            ids[row] = _draw(logits[row], sampling, len(tokens))
    told = {row: _told(raw[row], ids[row], samplings[row].logprobs or 0) for row in raw if usable[row]}
    return [Choice(token, told.get(row)) if usable[row] else None for row, token in enumerate(ids)]


def _constrain(logits: torch.Tensor, grammar: Grammar) -> bool:
    """Leave of one row [vocabulary] what may come next, in place; False when nothing may."""
    words = np.zeros(-(-len(logits) // 32), np.int32)
    grammar.fill(words)
    allowed = np.unpackbits(words.view(np.uint8), count=len(logits), bitorder="little").view(np.bool_)
    logits.masked_fill_(torch.from_numpy(~allowed).to(logits.device), float("-inf"))
    return bool(allowed.any())


def _told(raw: torch.Tensor, token: int, alternatives: int) -> Logprobs:
    """Of one row of log probabilities [vocabulary]."""
    values, ids = raw.topk(min(alternatives, len(raw)))
    return Logprobs(float(raw[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))


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
