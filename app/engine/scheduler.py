"""Who computes what in the next step. No torch: decisions over counters, tested without a model."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from app.engine.pages import PagePool
from app.engine.request import Sequence


class Claim(Enum):
    """Whether a waiting sequence can start."""

    READY = 1
    LOADING = 2  # its adapter is on its way: others may go first
    FULL = 3  # no free slot or page: nobody behind it may overtake, or it would starve


@dataclass(frozen=True)
class Chunk:
    """``tokens`` more of ``sequence`` in this step."""

    sequence: Sequence
    tokens: int

    @property
    def final(self) -> bool:
        """True when the step brings the sequence's next token."""
        return self.tokens == self.sequence.pending


class Scheduler:
    """Continuous batching: sequences join and leave between steps; decodes first, then prefill chunks.

    Pages are taken as sequences grow. When none is left, the youngest sequence goes back to the queue
    and is computed anew later, so the oldest always gets on.
    """

    def __init__(self, pool: PagePool, max_batch: int, step_tokens: int) -> None:
        self.pool = pool
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._max_batch = max_batch
        self._step_tokens = step_tokens

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is, and free its pages."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self.pool.release(sequence.pages)

    def plan(self, claim: Callable[[Sequence], Claim]) -> list[Chunk]:
        """The chunks of the next step, decodes first; empty when there is nothing to do."""
        for sequence in list(self.running):
            if sequence in self.running and not sequence.alone:
                self._make_room(sequence)
        decodes = [Chunk(s, 1) for s in self.running if s.pending == 1]
        budget = self._step_tokens - len(decodes)
        prefills: list[Chunk] = []
        for sequence in [s for s in self.running if s.pending > 1]:
            budget -= self._add_prefill(prefills, sequence, budget)
        for sequence in list(self.waiting):
            if budget <= 0 or len(self.running) >= self._max_batch:
                break
            answer = self._admit(sequence, claim)
            if answer is Claim.FULL:
                break
            if answer is Claim.READY:
                budget -= self._add_prefill(prefills, sequence, budget)
        return decodes + prefills

    def _add_prefill(self, prefills: list[Chunk], sequence: Sequence, budget: int) -> int:
        """Plan as much of a prompt as fits; the tokens planned."""
        tokens = sequence.pending if sequence.alone else min(sequence.pending, budget)
        if tokens > 0:
            prefills.append(Chunk(sequence, tokens))
        return max(tokens, 0)

    def _admit(self, sequence: Sequence, claim: Callable[[Sequence], Claim]) -> Claim:
        """Move a waiting sequence to the running ones, if it has slots and pages for its whole prompt."""
        if not sequence.alone and not self.pool.grow(sequence.pages, len(sequence.tokens)):
            return Claim.FULL
        answer = claim(sequence)
        if answer is Claim.READY:
            self.waiting.remove(sequence)
            self.running.append(sequence)
        else:
            self.pool.release(sequence.pages)
        return answer

    def _make_room(self, sequence: Sequence) -> None:
        """A page for the sequence's next token, at the youngest's expense if need be (itself included)."""
        while not self.pool.grow(sequence.pages, len(sequence.tokens)):
            victim = next(s for s in reversed(self.running) if s.pages)
            self._preempt(victim)
            if victim is sequence:
                return

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.running.remove(sequence)
        self.pool.release(sequence.pages)
        sequence.computed = 0
        self.waiting.appendleft(sequence)
