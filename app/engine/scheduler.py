"""The plan of each step: the sequences that compute, and how many tokens of each. No torch.

The scheduler reads counters and the admissions that it is given as data. It loads nothing and ends no sequence.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from app.engine.kv_cache.block_pool import BlockPool
from app.engine.sequence import Sequence

MOST_RETURNS = 3  # of a sequence to the queue because of memory; each frees graphs and caches


class Admission(Enum):
    """State of the adapters that a waiting sequence needs."""

    READY = 1  # resident, and held for the sequence
    LOADING = 2  # on their way: later sequences may go first
    FULL = 3  # no slot is free: no later sequence may overtake, or this one would starve


@dataclass(frozen=True)
class Chunk:
    """``tokens`` tokens of ``sequence`` from index ``start``; a ``final`` chunk yields the next token."""

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
        """The chunk's token ids; empty for a token that is still in flight."""
        return self.sequence.tokens[self.start : self.start + self.tokens]


class Scheduler:
    """Continuous batching: sequences join and leave between steps; decodes come first, then prefill chunks.

    Blocks are allocated as sequences grow. When none is left, the youngest sequence returns to the queue and is
    computed anew later, so the oldest always makes progress.
    """

    def __init__(self, pool: BlockPool, max_batch: int, step_tokens: int) -> None:
        self.pool = pool
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._preempted: list[Sequence] = []
        self._full = False  # no sequence starts until one that runs has ended
        self._max_batch = max_batch
        self._step_tokens = step_tokens

    def add(self, sequence: Sequence) -> None:
        """Append a sequence to the queue."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, whether it waits or runs, and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self.pool.free(sequence.blocks)
        self._full = False

    def take_preempted(self) -> list[Sequence]:
        """The sequences preempted since the last call: what else is kept for them may be freed."""
        taken, self._preempted = self._preempted, []
        return taken

    def put_back(self, sequence: Sequence) -> bool:
        """Return a sequence to the queue for which the device has no memory; it starts anew when another has ended.

        False, and unchanged, where no other sequence runs, or where it was put back `MOST_RETURNS` times already.
        """
        if self.running == [sequence] or sequence.put_back >= MOST_RETURNS:
            return False
        sequence.put_back += 1
        self._preempt(sequence)
        self._full = True
        return True

    def allocate_running(self) -> None:
        """Allocate a block for the next token of each running sequence; the youngest are preempted for it if need be.

        A second call before the next step changes nothing.
        """
        for sequence in list(self.running):
            if sequence in self.running and sequence.steppable:
                self._allocate_next(sequence)

    def candidates(self, admissions: Mapping[str, Admission]) -> Iterator[Chunk]:
        """First chunk of each waiting sequence that the next step has blocks, batch size and tokens for, in order.

        ``admissions``, by request id, may be filled while this runs: it is read after each chunk. A READY sequence
        takes its part of the step, a LOADING one leaves it to the next, and the first that is FULL, or unknown, ends
        the list. `allocate_running` comes first.
        """
        _, _, budget = self._running_chunks()
        blocks, places = self.pool.available, self._max_batch - len(self.running)
        for sequence in list(self.waiting):
            if budget <= 0 or places <= 0 or (self._full and self.running):
                return
            if sequence.in_flight:  # preempted with a token in flight; no other may overtake it
                return
            needed = self.pool.missing(sequence.blocks, sequence.length)
            if needed > blocks:
                return
            chunk = _prefill(sequence, budget)
            yield chunk
            admission = admissions.get(sequence.request.id, Admission.FULL)
            if admission is Admission.FULL:
                return
            if admission is Admission.READY:
                blocks, places, budget = blocks - needed, places - 1, budget - chunk.tokens

    def schedule(self, admissions: Mapping[str, Admission]) -> list[Chunk]:
        """The chunks of the next step, decodes first; empty when there is nothing to do.

        ``admissions``, by request id: of the `candidates`. Each READY one starts to run.
        """
        self.allocate_running()
        decodes, prefills, _ = self._running_chunks()
        for chunk in self.candidates(admissions):
            if admissions.get(chunk.sequence.request.id) is Admission.READY:
                self._start(chunk.sequence)
                prefills.append(chunk)
        return decodes + prefills

    def _running_chunks(self) -> tuple[list[Chunk], list[Chunk], int]:
        """Decodes and prefill chunks of the running sequences, and the tokens that they leave of the step."""
        steppable = [sequence for sequence in self.running if sequence.steppable]
        decodes = [_chunk(sequence, 1) for sequence in steppable if sequence.pending == 1]
        prefills, budget = [], self._step_tokens - len(decodes)
        for sequence in steppable:
            if sequence.pending > 1 and (sequence.alone or budget > 0):
                prefills.append(_prefill(sequence, budget))
                budget -= prefills[-1].tokens
        return decodes, prefills, budget

    def _start(self, sequence: Sequence) -> None:
        """Move a waiting sequence to the running ones, with blocks for its whole prompt."""
        allocated = self.pool.allocate(sequence.blocks, sequence.length)
        assert allocated, "candidates count blocks before they are allocated"
        self.waiting.remove(sequence)
        self.running.append(sequence)

    def _allocate_next(self, sequence: Sequence) -> None:
        """A block for the sequence's next token, at the expense of the youngest if need be, itself included."""
        while not self.pool.allocate(sequence.blocks, sequence.length):
            victim = next(one for one in reversed(self.running) if one.blocks)
            self._preempt(victim)
            if victim is sequence:
                return

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self._preempted.append(sequence)
        self.running.remove(sequence)
        self.pool.free(sequence.blocks)
        sequence.computed = 0
        self.waiting.appendleft(sequence)


def _prefill(sequence: Sequence, budget: int) -> Chunk:
    """As much of a prompt as the budget allows; all of it for a sequence that runs alone."""
    return _chunk(sequence, sequence.pending if sequence.alone else min(sequence.pending, budget))


def _chunk(sequence: Sequence, tokens: int) -> Chunk:
    return Chunk(sequence, sequence.computed, tokens, tokens == sequence.pending)
