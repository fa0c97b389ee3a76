"""From a conversation in OpenAI's shape to a running generation; chat completions and responses share it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anyio import to_thread

from app.api.audio_input import DecodedAudio, decode_uploads
from app.api.dependencies import AppState
from app.api.openai.models import resolve_model
from app.api.openai.tool_schema import schema_of
from app.api.schemas.openai.messages import ChatMessage, conversation, recordings
from app.api.schemas.openai.tools import AS_TEXT, UNSEEN, ToolPlan
from app.api.streaming import Generation, Submitter
from app.engine.sampling_params import SamplingParams
from app.errors import BadRequest, QueueFull
from app.models.structured.closed_schema import closed
from app.models.structured.grammar import ANY_OBJECT, JsonGrammar
from app.service import GenerationInput, Service


@dataclass(frozen=True)
class Asked:
    """One conversation to continue. ``limited``: the client says how long the answer may be.

    ``answer_schema``: of an answer in words, not of one that calls tools. ``field``: of the request, for errors.
    """

    model: str
    messages: Sequence[ChatMessage]
    sampling: SamplingParams
    limited: bool
    plan: ToolPlan
    answer_schema: Mapping[str, Any] | None
    field: str = "messages"


async def ask(
    asked: Asked, state: AppState, service: Service, submitter: Submitter
) -> tuple[Generation, DecodedAudio, list[str]]:
    """Decode the recordings and submit the conversation; with it, what the model was not shown.

    Raises what the steps raise: BadRequest, AdapterNotFound, AudioError, TooLarge, PromptTooLong, QueueFull.
    """
    adapters = await asyncio.to_thread(resolve_model, service, asked.model)
    asked.plan.check(service.prompts.knows_tools, formatted=asked.answer_schema is not None)
    grammar = await _grammar(state, service, asked)
    sent = await to_thread.run_sync(recordings, asked.messages, asked.field)
    audio = await decode_uploads(state, service, sent, max_tokens=service.engine.max_tokens_per_request)
    generation = await submitter.submit(
        GenerationInput(
            conversation(asked.messages, audio.clips, asked.plan.tools),
            adapters,
            asked.sampling,
            grammar,
            fit=not asked.limited,
            audio_seconds=audio.seconds,
            decoding_seconds=audio.decoding_seconds,
        )
    )
    return generation, audio, _unseen(asked, service)


def _unseen(asked: Asked, service: Service) -> list[str]:
    if service.prompts.knows_tools:
        return []
    history = any(message.tool_calls for message in asked.messages)
    return [*([UNSEEN] if asked.plan.constrained else []), *([AS_TEXT] if history else [])]


async def _grammar(state: AppState, service: Service, asked: Asked) -> JsonGrammar | None:
    """Compiled on a worker thread. Raises BadRequest for a schema that cannot be followed, or QueueFull."""
    if not asked.plan.constrained and asked.answer_schema is None:
        return None
    waiting = state.schema_limiter.statistics().tasks_waiting
    if waiting >= state.settings.max_queue:
        raise QueueFull(f"{waiting} JSON schemas wait to be compiled already; try again shortly.")
    return await to_thread.run_sync(_compiled, service, asked, limiter=state.schema_limiter)


def _compiled(service: Service, asked: Asked) -> JsonGrammar:
    """Blocking."""
    try:
        return service.grammars.of(closed(schema_of(asked.plan) or asked.answer_schema or ANY_OBJECT))
    except RecursionError:
        raise BadRequest("The JSON schema is nested too deeply to be followed.") from None
