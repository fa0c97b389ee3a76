"""Finished answers are kept in memory for a while, where feedback is on, with the recordings as they were sent."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import PurePath

from fastapi import UploadFile

from app.api.audio_input import DecodedAudio
from app.api.dependencies import AppState
from app.api.schemas.responses import adapter_ref
from app.api.streaming import Generation
from app.audio.decode import SUFFIXES
from app.engine.request import Done
from app.feedback.recent import AnsweredRequest, Upload
from app.feedback.row import PLACEHOLDER, AdapterPart, AskedTurn
from app.models.features import Clip
from app.models.prompt import Message
from app.service import Service

KIND = "wav"  # the ending of a recording whose name has none that is known; decoders look at the bytes


class Memory:
    """Keeps the answers of one HTTP request; does nothing where feedback is off."""

    def __init__(self, state: AppState, service: Service, uploads: tuple[Upload, ...]) -> None:
        self._state = state
        self._service = service
        self._uploads = uploads

    @classmethod
    async def of(cls, state: AppState, service: Service, uploads: Sequence[UploadFile]) -> "Memory":
        """Reads the uploads again, which lie in memory or in a spooled file; off the event loop."""
        found = await asyncio.to_thread(read_uploads, uploads) if state.feedback is not None else ()
        return cls(state, service, found)

    def keep(self, generation: Generation, done: Done, audio: DecodedAudio, *other_ids: str) -> None:
        """Keep one answer under its own id and ``other_ids``."""
        self._keep(generation, generation.id, done.text, audio, other_ids)

    def keep_transcript(self, generation: Generation, text: str, audio: DecodedAudio, request_id: str) -> None:
        """Keep the text of a whole recording under the id of its request; ``generation``: of its first window."""
        self._keep(generation, request_id, text, audio, ())

    def _keep(
        self, generation: Generation, identity: str, text: str, audio: DecodedAudio, other_ids: Sequence[str]
    ) -> None:
        messages = generation.input.conversation.messages
        if self._state.feedback is None or any(message.role == "tool" for message in messages):
            return  # a data set has no turns of tools
        weights = generation.input.adapters
        sampling = asdict(generation.input.sampling)
        asked = AnsweredRequest(
            identity,
            self._service.loaded.spec.name,
            adapter_ref(weights).name,
            tuple(AdapterPart(name=w.adapter.name, version=w.adapter.version, weight=w.weight) for w in weights),
            turns_of(messages, audio.clips),
            {name: list(value) if isinstance(value, tuple) else value for name, value in sampling.items()},
            text,
            self._uploads,
        )
        self._state.recent.put(self._service.registry.caller.tenant, asked, other_ids)


def read_uploads(uploads: Sequence[UploadFile]) -> tuple[Upload, ...]:
    """The recordings' bytes with the endings of their names. Blocking."""
    found = []
    for upload in uploads:
        upload.file.seek(0)
        found.append(Upload(upload.file.read(), kind_of(upload.filename)))
        upload.file.seek(0)
    return tuple(found)


def kind_of(filename: str | None) -> str:
    """The ending of a recording's name, one that data sets know."""
    suffix = PurePath(filename or "").suffix.lower()
    return suffix.removeprefix(".") if suffix in SUFFIXES else KIND


def turns_of(messages: Sequence[Message], recordings: Sequence[Sequence[Clip]]) -> tuple[AskedTurn, ...]:
    """The conversation as text; each recording's first clip is a placeholder, its others nothing."""
    first = {id(clips[0]) for clips in recordings if clips}
    turns = []
    for message in messages:
        parts = [part if isinstance(part, str) else PLACEHOLDER * (id(part) in first) for part in message.parts]
        if message.role != "tool":
            turns.append(AskedTurn.model_construct(role=message.role, content="".join(parts)))
    return tuple(turns)
