"""The input of one generation, and the conversation that it continues."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from app.engine.grammar import Grammar
from app.engine.request import Done, Event, Failed, LoRAWeight, Token
from app.engine.sampling_params import SamplingParams
from app.models.features import Clip
from app.models.prompt import Message, Role
from app.models.structured.tools import Tool

DEFAULT_PROMPT = "Transcribe the audio."
Recording = Sequence[Clip]  # the clips of one recording, in order


def flat(parts: Iterable[str | Recording]) -> tuple[str | Clip, ...]:
    """Texts and recordings as texts and clips."""
    return tuple(one for part in parts for one in ([part] if isinstance(part, str) else part))


@dataclass(frozen=True)
class Conversation:
    """Messages, and their clips in the order of the prompt. ``tools``: shown to a model whose template knows tools."""

    messages: tuple[Message, ...]
    clips: tuple[Clip, ...] = ()
    tools: tuple[Tool, ...] = ()

    @classmethod
    def of(cls, turns: Iterable[tuple[Role, Sequence[str | Recording]]]) -> "Conversation":
        """Build a conversation from roles and their parts: text, or the clips of a recording."""
        messages, clips = [], list[Clip]()
        for role, parts in turns:
            messages.append(Message(role, flat(parts)))
            clips.extend(clip for part in parts if not isinstance(part, str) for clip in part)
        return cls(tuple(messages), tuple(clips))

    @classmethod
    def single_turn(cls, recordings: Sequence[Recording], prompt: str, system: str | None = None) -> "Conversation":
        """One user message: the recordings, then the prompt; before it the system message, if there is one."""
        user: tuple[Role, Sequence[str | Recording]] = ("user", (*recordings, prompt))
        return cls.of([("system", (system,)), user] if system else [user])


@dataclass(frozen=True)
class GenerationInput:
    """One conversation to continue.

    ``adapters``: their LoRA weights, none for the base model. ``grammar``: constrains the answer; used for this input
    alone. ``fit``: shorten the answer to the tokens that the prompt leaves, instead of refusing the request.
    ``audio_seconds`` and ``decoding_seconds``: audio in the prompt, and the time that its decoding took; for metrics.
    """

    conversation: Conversation
    adapters: tuple[LoRAWeight, ...] = ()
    sampling: SamplingParams = field(default_factory=SamplingParams)
    grammar: Grammar | None = None
    fit: bool = False
    audio_seconds: float = 0.0
    decoding_seconds: float = 0.0


def default_prompt(adapters: Sequence[LoRAWeight]) -> str:
    """The prompt of a request without one: that of its only adapter, else `DEFAULT_PROMPT`."""
    if len(adapters) == 1 and adapters[0].adapter.manifest.prompt:
        return str(adapters[0].adapter.manifest.prompt)
    return DEFAULT_PROMPT


def unwrap(event: Event) -> Token | Done:
    """The event, unless the request has failed. Raises its error."""
    if isinstance(event, Failed):
        raise event.error
    return event
