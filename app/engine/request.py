"""Requests and the events that answer them. No torch."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.engine.grammar import Grammar
from app.engine.sampling_params import SamplingParams
from app.errors import BadRequest, OvertoneError, PromptTooLong

if TYPE_CHECKING:
    from app.models.features import Clip
    from app.models.head import Moments
    from app.registry.adapter import Adapter


def new_id() -> str:
    """A request's id. It is random: a count would show each tenant how much the others ask."""
    return f"req-{secrets.token_hex(8)}"


@dataclass(frozen=True)
class LoRAWeight:
    """One adapter of a request and its weight in the mix (1 for an adapter alone)."""

    adapter: "Adapter"
    weight: float = 1.0


@dataclass(frozen=True)
class Request:
    """One prompt to continue.

    ``prompt``: token ids, each clip represented by its audio tokens. ``lora_weights``: empty for the base model.
    ``emit`` is called on the engine's thread and must not block. ``deadline``: `time.monotonic` seconds.
    ``grammar`` constrains the answer. It belongs to this request alone, since it advances with the answer.
    """

    prompt: tuple[int, ...]
    clips: "tuple[Clip, ...]"
    lora_weights: tuple[LoRAWeight, ...]
    sampling: SamplingParams
    emit: Callable[["Event"], None]
    deadline: float = float("inf")
    grammar: Grammar | None = None
    id: str = field(default_factory=new_id)

    @property
    def max_tokens(self) -> int:
        """Tokens in the KV cache when every new token is used."""
        return len(self.prompt) + self.sampling.max_new_tokens


@dataclass(frozen=True)
class Logprobs:
    """Natural log probabilities by the model itself, before penalty, temperature and grammar.

    ``chosen``: of the token taken. ``top``: the most likely tokens as (token id, log probability), best first.
    """

    chosen: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Token:
    """One more token; ``text`` became printable with it and may be empty.

    At the end, text that was held back comes without an id.
    """

    id: int | None
    text: str
    logprobs: Logprobs | None = None


@dataclass
class Timings:
    """Milliseconds. ``activation``: wait for an adapter's weights, part of ``queue``. ``audio``: encoding of the clips.

    On CUDA ``audio`` is the device's time between two events, otherwise the host's.
    """

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
    """The end of a request that failed."""

    error: OvertoneError


Event = Token | Done | Failed


@dataclass(frozen=True)
class PooledAudio:
    """Pooled encoder output of each clip, for classifiers; milliseconds in the queue and of encoding."""

    clips: "tuple[Moments, ...]"
    queue: float
    audio: float


def check_fits(request: Request, max_tokens: int, max_mix: int, alone_tokens: int | None = None) -> None:
    """Refuse a request that can never run within ``max_tokens`` tokens, or that mixes more than ``max_mix`` adapters.

    ``alone_tokens``: of a prompt whose adapter cannot join a batch; None without a limit. Raises PromptTooLong or
    BadRequest.
    """
    prompt = len(request.prompt)
    if prompt >= max_tokens:
        raise PromptTooLong(
            f"The prompt takes {prompt} tokens (audio included); this server has room for {max_tokens} with the "
            "answer. Send shorter audio or text."
        )
    if request.max_tokens > max_tokens:
        raise BadRequest(
            f"max_new_tokens={request.sampling.max_new_tokens} after a prompt of {prompt} tokens exceeds this "
            f"server's {max_tokens} tokens; ask for at most {max_tokens - prompt}."
        )
    alone = [one.adapter.name for one in request.lora_weights if one.adapter.report.serving == "alone"]
    if alone and len(request.lora_weights) > 1:
        raise BadRequest(f"The adapter {alone[0]!r} cannot be mixed with others; name it alone.")
    if alone and alone_tokens is not None and request.max_tokens > alone_tokens:
        raise PromptTooLong(
            f"Prompt and answer take {request.max_tokens} tokens, audio included. With the adapter {alone[0]!r}, which "
            f"cannot join a batch, this server has memory for {alone_tokens}. Send shorter audio or text."
        )
    if len(request.lora_weights) > max_mix:
        raise BadRequest(f"A mix may hold {max_mix} adapters at most.")
