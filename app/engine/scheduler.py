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
    """The ``tokens`` from index ``start`` of ``sequence`` in this step; ``final``: it brings the next token."""

    sequence: Sequence
    start: int
    tokens: int
    final: bool

    @property
    def decodes(self) -> bool:
        """True for one token of the answer, False for a part of the prompt."""
        return self.tokens == 1 and self.start >= len(self.sequence.request.prompt)

    @property
    def ids(self) -> list[int]:
        """The chunk's token ids; of a token still under way there is none."""
        return self.sequence.tokens[self.start : self.start + self.tokens]


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
            if sequence in self.running and sequence.steppable and not sequence.alone:
                self._make_room(sequence)
        steppable = [s for s in self.running if s.steppable]
        decodes = [_chunk(s, 1) for s in steppable if s.pending == 1]
        budget = self._step_tokens - len(decodes)
        prefills: list[Chunk] = []
        for sequence in [s for s in steppable if s.pending > 1]:
            budget -= self._add_prefill(prefills, sequence, budget)
        for sequence in list(self.waiting):
            if budget <= 0 or len(self.running) >= self._max_batch:
                break
            if sequence.flying:  # sent back with a token still under way; nobody overtakes it
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
            prefills.append(_chunk(sequence, tokens))
        return max(tokens, 0)

    def _admit(self, sequence: Sequence, claim: Callable[[Sequence], Claim]) -> Claim:
        """Move a waiting sequence to the running ones, if it has slots and pages for its whole prompt."""
        if not sequence.alone and not self.pool.grow(sequence.pages, sequence.length):
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
        while not self.pool.grow(sequence.pages, sequence.length):
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


def _chunk(sequence: Sequence, tokens: int) -> Chunk:
    return Chunk(sequence, sequence.computed, tokens, tokens == sequence.pending)
