"""All sequences that have not ended, and every way in which one ends."""

import logging
import threading
import time
from collections.abc import Callable, Collection

from app.engine.lora.manager import LoRAManager
from app.engine.request import Done, Failed, Token
from app.engine.runner import Runner
from app.engine.sampler import Choice
from app.engine.scheduler import Scheduler
from app.engine.sequence import Sequence
from app.engine.stats import EngineStats
from app.errors import DeadlineExceeded, EngineFault, OvertoneError

log = logging.getLogger(__name__)


class ActiveSequences:
    """Sequences by request id. `add`, `get` and `len` may be called from any thread, the rest from the engine's.

    A sequence's blocks, device state and slots are free, and ``publish`` has been called, before its last event.
    ``changed`` is notified when a sequence has ended. ``eos_ids``: tokens that end a turn.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        lora_manager: LoRAManager,
        eos_ids: Collection[int],
        stats: EngineStats,
        changed: threading.Condition,
        publish: Callable[[], None],
    ) -> None:
        self.eos_ids = eos_ids
        self._scheduler = scheduler
        self._runner = runner
        self._lora_manager = lora_manager
        self._stats = stats
        self._changed = changed
        self._publish = publish
        self._by_id: dict[str, Sequence] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence.request.id in self._by_id

    def get(self, request_id: str) -> Sequence | None:
        return self._by_id.get(request_id)

    def add(self, sequence: Sequence) -> None:
        self._by_id[sequence.request.id] = sequence

    def append(self, sequence: Sequence, choice: Choice | None) -> None:
        """Append a token to a sequence and end it where it stops; None ends it with an error.

        Raises the errors of its grammar and its detokenizer.
        """
        grammar, sampling = sequence.request.grammar, sequence.request.sampling
        if choice is None:
            error = grammar.error if grammar else None
            return self.fail(sequence, error or EngineFault("The model's output was not finite (NaN or overflow)."))
        if sequence.first_token is None:
            sequence.first_token = time.monotonic()
            sequence.timings.audio = self._runner.encoding_ms(sequence)
        sequence.tokens.append(choice.token)
        if choice.token in self.eos_ids and not sampling.ignore_eos:
            return self.finish(sequence, "stop")
        self._stats.generated_tokens += 1
        if grammar:
            grammar.accept(choice.token)
        _emit(sequence, Token(choice.token, sequence.detokenizer.push(choice.token), choice.logprobs))
        if sequence.detokenizer.stopped or (grammar and grammar.finished):
            self.finish(sequence, "stop")
        elif sequence.new_tokens >= sampling.max_new_tokens:
            self.finish(sequence, "length")

    def end_cancelled_and_overdue(self) -> None:
        """End the sequences that were cancelled or whose deadline has passed."""
        now = time.monotonic()
        for sequence in list(self._by_id.values()):
            if sequence.cancelled:
                self.finish(sequence, "cancelled")
            elif now > sequence.request.deadline:
                self.fail(sequence, DeadlineExceeded("The request took longer than this server allows."))

    def finish(self, sequence: Sequence, reason: str) -> None:
        """End a sequence well; ``reason`` as `Done.finish_reason`."""
        rest = sequence.detokenizer.finish()
        self._free(sequence)
        if rest and reason != "cancelled":
            _emit(sequence, Token(None, rest))
        self._stats.finished += 1
        self._end(sequence, sequence.done(reason, time.monotonic()))

    def fail(self, sequence: Sequence, error: OvertoneError) -> None:
        """End a sequence with an error."""
        self._free(sequence)
        self._stats.failed += 1
        self._end(sequence, Failed(error))

    def fail_all(self, error: OvertoneError) -> None:
        """End every sequence with the same error."""
        for sequence in list(self._by_id.values()):
            self.fail(sequence, error)

    def _free(self, sequence: Sequence) -> None:
        """Free the blocks, device state and slots of a sequence."""
        self._scheduler.remove(sequence)
        self._runner.free(sequence)
        self._lora_manager.release(sequence)

    def _end(self, sequence: Sequence, event: Done | Failed) -> None:
        with self._changed:
            self._by_id.pop(sequence.request.id, None)
            self._changed.notify_all()
        self._publish()
        _emit(sequence, event)


def _emit(sequence: Sequence, event: Token | Done | Failed) -> None:
    """Emit an event; a receiver that fails ends its own request."""
    try:
        sequence.request.emit(event)
    except Exception:
        log.exception("the receiver of request %s failed", sequence.request.id)
        sequence.cancelled = True
