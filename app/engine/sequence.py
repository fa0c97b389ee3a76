"""A request while the engine works on it. No torch."""

from app.engine.detokenizer import Detokenizer
from app.engine.request import Done, Request, Timings


class Sequence:
    """The tokens of a request, how many of them the KV cache holds, and the blocks that hold them.

    ``in_flight``: tokens that a queued step draws and that the host has not read yet; all counts include them.
    """

    def __init__(self, request: Request, detokenizer: Detokenizer, now: float) -> None:
        self.request = request
        self.detokenizer = detokenizer
        self.tokens: list[int] = list(request.prompt)
        self.computed = 0
        self.in_flight = 0
        self.blocks: list[int] = []
        self.slots_held = False
        self.cancelled = False
        self.put_back = 0  # times that it was, for want of memory
        self.timings = Timings()
        self.submitted = now
        self.admitted: float | None = None
        self.first_token: float | None = None

    @property
    def alone(self) -> bool:
        """True when one of its adapters can only be served through plain PEFT, outside the batch."""
        return any(one.adapter.report.serving == "alone" for one in self.request.lora_weights)

    @property
    def new_tokens(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def length(self) -> int:
        """All tokens, those in flight included."""
        return len(self.tokens) + self.in_flight

    @property
    def pending(self) -> int:
        """Tokens that the KV cache does not hold yet: 1 while decoding, more while prefilling."""
        return self.length - self.computed

    @property
    def steppable(self) -> bool:
        """False while another step would be one too many, or needs a token that is still in flight."""
        if not self.in_flight:
            return True
        request = self.request
        needs_tokens = self.alone or request.grammar or request.sampling.repetition_penalty != 1.0
        return not needs_tokens and self.length < request.max_tokens

    def done(self, reason: str, now: float) -> Done:
        """The last event of a sequence that ended well; ``now``: `time.monotonic` seconds."""
        request = self.request
        audio_tokens = sum(clip.tokens for clip in request.clips)
        return Done(
            reason, self.detokenizer.text, len(request.prompt), audio_tokens, self.new_tokens, self._timings_at(now)
        )

    def _timings_at(self, now: float) -> Timings:
        """All timings at the sequence's end, in ms."""
        timings = self.timings
        admitted = self.admitted or now
        first = self.first_token or now
        timings.queue = 1e3 * (admitted - self.submitted)
        timings.ttft = 1e3 * (first - self.submitted)
        timings.prefill = max(0.0, 1e3 * (first - admitted) - timings.audio)
        timings.decode = 1e3 * (now - first)
        timings.total = 1e3 * (now - self.submitted)
        return timings
