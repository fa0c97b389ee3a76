"""What the engine is asked and what it answers. No torch here but for what clips hold."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from app.engine.grammar import Grammar
from app.engine.text import TextStream
from app.errors import BadRequest, OvertoneError, PromptTooLong
from app.model.features import Clip
from app.model.head import Moments
from app.registry.registry import Adapter


def new_id() -> str:
    """A request's id. Drawn at random: a count would tell each tenant how much the others ask."""
    return f"req-{secrets.token_hex(8)}"


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 are off.

    ``logprobs``: None is off; k tells each token's log probability and those of the k likeliest.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True)
class Share:
    """One adapter of a request, with its weight in the mix (1 for an adapter alone)."""

    adapter: Adapter
    weight: float = 1.0


@dataclass(frozen=True)
class Request:
    """One prompt to continue.

    ``prompt``: token ids, each clip standing as its audio tokens. ``shares``: none for the base model.
    ``deadline``: `time.monotonic` seconds. ``emit`` is called on the engine's thread and must not block.
    ``grammar``: what the answer may say; of this request alone, since it moves on with the answer.
    """

    prompt: tuple[int, ...]
    clips: tuple[Clip, ...]
    shares: tuple[Share, ...]
    sampling: Sampling
    emit: Callable[["Event"], None]
    deadline: float = float("inf")
    grammar: Grammar | None = None
    id: str = field(default_factory=new_id)

    @property
    def longest(self) -> int:
        """Tokens in the KV cache when every new token is used."""
        return len(self.prompt) + self.sampling.max_new_tokens


@dataclass(frozen=True)
class Logprobs:
    """Natural log probabilities by the model itself, before penalty, temperature and grammar.

    ``chosen``: of the token taken. ``top``: the likeliest as (token id, log probability), best first.
    """

    chosen: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Token:
    """One more token; ``text`` is what became printable with it (possibly nothing).

    At the end, text that was held back comes with no id.
    """

    id: int | None
    text: str
    logprobs: Logprobs | None = None


@dataclass
class Timings:
    """Milliseconds. ``activation`` is the wait for an adapter's weights, part of ``queue``."""

    queue: float = 0.0
    activation: float = 0.0
    audio: float = 0.0
    prefill: float = 0.0
    ttft: float = 0.0
    decode: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class Done:
    """The end: `stop` (end of turn or a stop string), `length`, or `cancelled`."""

    finish_reason: str
    text: str
    prompt_tokens: int
    audio_tokens: int
    completion_tokens: int
    timings: Timings


@dataclass(frozen=True)
class Failed:
    error: OvertoneError


Event = Token | Done | Failed


@dataclass(frozen=True)
class Listened:
    """What heads hear of each clip of a classification; milliseconds waited and worked."""

    clips: tuple[Moments, ...]
    queue: float
    audio: float


class Sequence:
    """A request on its way: its tokens, how many of them the KV cache holds, and its pages.

    ``flying``: tokens that a queued step has drawn and that are not known here yet; they count everywhere.
    """

    def __init__(self, request: Request, stream: TextStream, now: float) -> None:
        self.request = request
        self.stream = stream
        self.tokens: list[int] = list(request.prompt)
        self.computed = 0
        self.flying = 0
        self.pages: list[int] = []
        self.slots_held = False
        self.cancelled = False
        self.timings = Timings()
        self.submitted = now
        self.admitted: float | None = None
        self.first_token: float | None = None

    @property
    def alone(self) -> bool:
        """True when an adapter of it can only be served through plain PEFT."""
        return any(share.adapter.report.serving == "alone" for share in self.request.shares)

    @property
    def new_tokens(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def length(self) -> int:
        """All tokens, those under way included."""
        return len(self.tokens) + self.flying

    @property
    def pending(self) -> int:
        """Tokens not yet in the KV cache: 1 while decoding, more while prefilling."""
        return self.length - self.computed

    @property
    def steppable(self) -> bool:
        """False while a step would be one too many, or would need a token that is not known yet."""
        if not self.flying:
            return True
        request = self.request
        needs_tokens = self.alone or request.grammar or request.sampling.repetition_penalty != 1.0
        return not needs_tokens and self.length < self.request.longest

    def done(self, reason: str, now: float) -> Done:
        """The last event of a sequence that ended well."""
        request = self.request
        heard = sum(clip.tokens for clip in request.clips)
        return Done(reason, self.stream.text, len(request.prompt), heard, self.new_tokens, self._timings_at(now))

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


def check(request: Request, room: int, max_mix: int) -> None:
    """Refuse what could never run in ``room`` tokens; raises PromptTooLong or BadRequest."""
    prompt = len(request.prompt)
    if prompt >= room:
        raise PromptTooLong(
            f"The prompt takes {prompt} tokens (audio included); this server has room for {room} with the answer. "
            "Send shorter audio or text."
        )
    if request.longest > room:
        raise BadRequest(
            f"max_new_tokens={request.sampling.max_new_tokens} after a prompt of {prompt} tokens exceeds this "
            f"server's {room} tokens; ask for at most {room - prompt}."
        )
    alone = [share.adapter.name for share in request.shares if share.adapter.report.serving == "alone"]
    if alone and len(request.shares) > 1:
        raise BadRequest(f"The adapter {alone[0]!r} cannot be mixed with others; name it alone.")
    if len(request.shares) > max_mix:
        raise BadRequest(f"A mix may hold {max_mix} adapters at most.")
