"""From logits to tokens. The randomness is one uniform number per token, drawn from (seed, position) alone."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from app.engine.grammar import Grammar
from app.engine.request import Logprobs
from app.engine.sampling_params import SamplingParams

_NO_TOKEN = -1  # in place of the token of a row without a valid choice


@dataclass(frozen=True)
class Choice:
    """The next token of a row, with log probabilities if the request asked for them."""

    token: int
    logprobs: Logprobs | None = None


@dataclass(frozen=True)
class Drawn:
    """The tokens of a step, which the device may still be computing.

    ``ids`` [rows]: tokens on the device; ``host``: their copy. ``logprobs``, by row: (chosen, values, ids) of the rows
    that asked for log probabilities, on the host. Both copies are complete once ``copied`` is; None on a CPU.
    """

    ids: torch.Tensor
    host: torch.Tensor
    logprobs: Mapping[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    copied: torch.cuda.Event | None

    def result(self) -> list[Choice | None]:
        """One choice per row, after waiting for the device; None where the row was not finite or its grammar failed."""
        if self.copied is not None:
            self.copied.synchronize()
        logprobs = {
            row: Logprobs(float(chosen), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
            for row, (chosen, values, ids) in self.logprobs.items()
        }
        return [
            None if token == _NO_TOKEN else Choice(token, logprobs.get(row))
            for row, token in enumerate(self.host.tolist())
        ]


def finite_argmax(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row of ``logits`` [rows, vocabulary]: True if it is finite, and the index of its largest number."""
    return torch.isfinite(logits).all(-1), logits.argmax(-1)


def choose(
    logits: torch.Tensor,
    samplings: Sequence[SamplingParams],
    seen: Sequence[Sequence[int]],
    grammars: Sequence[Grammar | None],
    positions: Sequence[int],
    finite_argmax: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = finite_argmax,
) -> Drawn:
    """One token per row of ``logits`` [rows, vocabulary], without waiting for the device.

    ``seen``: prompt and answer so far, for the repetition penalty. ``positions``: of the new tokens.
    ``finite_argmax``: a replacement with the same result.
    The order is transformers': grammar, repetition penalty, temperature, top-k, top-p. Log probabilities are
    the model's own, before all of them, as in vLLM.
    """
    usable, ids = finite_argmax(logits)
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
    logprobs = {}
    for row, chances in raw.items():
        values, top_ids = chances.topk(min(samplings[row].logprobs or 0, len(chances)))
        logprobs[row] = (_fetch(chances[ids[row]]), _fetch(values), _fetch(top_ids))
    ids = torch.where(usable, ids, _NO_TOKEN)
    host = _fetch(ids)
    copied = torch.cuda.Event() if ids.is_cuda else None  # type: ignore[no-untyped-call]
    if copied is not None:
        copied.record()
    return Drawn(ids, host, logprobs, copied)


def _fetch(values: torch.Tensor) -> torch.Tensor:
    """A copy on the host, complete once the device has reached this point."""
    if not values.is_cuda:
        return values
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)


def _constrain(logits: torch.Tensor, grammar: Grammar) -> bool:
    """Mask the tokens of one row [vocabulary] that the grammar excludes, in place; False when it excludes all."""
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


def _draw(logits: torch.Tensor, sampling: SamplingParams, position: int) -> torch.Tensor:
    """One draw from the filtered distribution of one row [vocabulary]."""
    # the largest score becomes 0 first, so that no temperature overflows
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
