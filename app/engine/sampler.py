"""From logits to tokens. Randomness is one uniform number a token, drawn from (seed, position) alone."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from app.engine.grammar import Grammar
from app.engine.request import Logprobs, Sampling

_LOST = -1  # stands for the token of a row in which there is nothing to choose


@dataclass(frozen=True)
class Choice:
    """The next token of a row, with log probabilities where they were asked for."""

    token: int
    logprobs: Logprobs | None = None


@dataclass(frozen=True)
class Drawn:
    """The tokens of a step, possibly still being computed.

    ``ids`` [rows] on the device; ``host``, the same, and ``told``, (chosen, values, ids) of the rows that asked
    for log probabilities, are on their way here until ``arrived``.
    """

    ids: torch.Tensor
    host: torch.Tensor
    told: Mapping[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    arrived: torch.cuda.Event | None

    def result(self) -> list[Choice | None]:
        """One choice a row, waiting for it; None where a row was not finite, or its grammar at an end."""
        if self.arrived is not None:
            self.arrived.synchronize()
        told = {
            row: Logprobs(float(chosen), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
            for row, (chosen, values, ids) in self.told.items()
        }
        return [
            None if token == _LOST else Choice(token, told.get(row)) for row, token in enumerate(self.host.tolist())
        ]


def likeliest(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each row of ``logits`` [rows, vocabulary] is finite, and its largest."""
    return torch.isfinite(logits).all(-1), logits.argmax(-1)


def choose(
    logits: torch.Tensor,
    samplings: Sequence[Sampling],
    seen: Sequence[Sequence[int]],
    grammars: Sequence[Grammar | None],
    positions: Sequence[int],
    likeliest: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = likeliest,
) -> Drawn:
    """One token a row of ``logits`` [rows, vocabulary], without waiting for the device.

    ``seen``: prompt and answer so far, for the repetition penalty. ``positions``: of the new tokens.
    ``likeliest``: another that gives the same.
    The order is transformers': grammar, repetition penalty, temperature, top-k, top-p. Log probabilities are
    the model's own, before all of them, as in vLLM.
    """
    usable, ids = likeliest(logits)
    raw = {row: logits[row].float().log_softmax(-1) for row, each in enumerate(samplings) if each.logprobs is not None}
    changed = False
    if any(grammars) or any(sampling.repetition_penalty != 1.0 for sampling in samplings):
        logits, changed = logits.float().clone(), True
    for row, (sampling, tokens, grammar) in enumerate(zip(samplings, seen, grammars, strict=True)):
        if grammar and not _constrain(logits[row], grammar):
            usable[row] = False
        if sampling.repetition_penalty != 1.0:
            _penalise(logits[row], tokens, sampling.repetition_penalty)
    if changed:
        ids = logits.argmax(-1)
    for row, (sampling, position) in enumerate(zip(samplings, positions, strict=True)):
        if not sampling.greedy:
            ids[row] = _draw(logits[row].float(), sampling, position)
    told = {}
    for row, chances in raw.items():
        values, top_ids = chances.topk(min(samplings[row].logprobs or 0, len(chances)))
        told[row] = (_fetch(chances[ids[row]]), _fetch(values), _fetch(top_ids))
    ids = torch.where(usable, ids, _LOST)
    host = _fetch(ids)
    arrived = torch.cuda.Event() if ids.is_cuda else None  # type: ignore[no-untyped-call]
    if arrived is not None:
        arrived.record()
    return Drawn(ids, host, told, arrived)


def _fetch(values: torch.Tensor) -> torch.Tensor:
    """A copy on the host, under way when this returns."""
    if not values.is_cuda:
        return values
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)


def _constrain(logits: torch.Tensor, grammar: Grammar) -> bool:
    """Leave of one row [vocabulary] what may come next, in place; False when nothing may."""
    words = np.zeros(-(-len(logits) // 32), np.int32)
    grammar.fill(words)
    allowed = np.unpackbits(words.view(np.uint8), count=len(logits), bitorder="little").view(np.bool_)
    logits.masked_fill_(torch.from_numpy(~allowed).to(logits.device), float("-inf"))
    return bool(allowed.any())


def _penalise(logits: torch.Tensor, tokens: Sequence[int], penalty: float) -> None:
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
