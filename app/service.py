"""One opened Overtone: model, registry and engine, and the steps from a user's words to a request.

The HTTP API and the command line both stand on it, so they answer alike.
"""

import copy
import itertools
import logging
import os
import queue
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import torch

from app.access.caller import OPERATOR, Caller
from app.audio.cut_receipt import CutReceipt
from app.audio.decode import Limits
from app.audio.pool import Decoder, DecodingPool, preload
from app.engine.engine import Engine
from app.engine.grammar import Grammar
from app.engine.heads import Heads
from app.engine.limits import EngineLimits
from app.engine.memory import plan_memory
from app.engine.request import Done, Event, Failed, Request, Sampling, Share, Token
from app.errors import BadRequest
from app.model.base import LoadedModel, load, pick_device, pick_dtype
from app.model.features import Clip, ClipReader, FeatureExtractor
from app.model.grammar import Grammars
from app.model.prompt import Message, PromptRenderer
from app.model.random_weights import RANDOM, random_weights
from app.registry.choices import EVERYBODY, Chosen
from app.registry.object_store import ObjectStore
from app.registry.registry import Adapter, Registry
from app.registry.shared import SharedRegistry, open_registry
from app.registry.visible import VisibleRegistry
from app.settings import EMBEDDED_MODEL, Settings

log = logging.getLogger(__name__)
BASE = "base"
# The engine's thread lets go of the interpreter's lock at every tensor operation; with Python's own 5 ms it
# would wait that long each time to get it back from threads that prepare recordings.
SWITCH_S = 1e-5
MOST_DECODERS = 8
DEFAULT_PROMPT = "Transcribe the audio."


class Service:
    """Everything that lives as long as the process. `open` blocks while the model loads."""

    def __init__(self, settings: Settings, loaded: LoadedModel, registry: Registry, engine: Engine) -> None:
        self.settings = settings
        self.loaded = loaded
        self.registry = VisibleRegistry(registry, OPERATOR)
        self.engine = engine
        self.features = FeatureExtractor(loaded.processor, settings.long_audio)
        limits = Limits(settings.max_audio_seconds, settings.max_upload_mb << 20, settings.max_decode_seconds)
        cpu_seconds = 3 * settings.max_decode_seconds  # the features and what cuts a recording come on top
        self.clip_readers = DecodingPool(ClipReader(self.features, limits), decoders(settings), cpu_seconds)
        self.decoders = DecodingPool(Decoder(self.features.sample_rate, limits), 1, cpu_seconds)
        self.prompts = PromptRenderer(loaded.processor)
        vocabulary = loaded.model.config.get_text_config().vocab_size
        self.grammars = Grammars(loaded.processor, vocabulary, self.prompts.eos_ids)
        self.heads = Heads(registry)
        self.choices = registry.choices
        self.fingerprint = engine.fingerprint().result()

    @classmethod
    def open(cls, settings: Settings) -> "Service":
        """Load the model, open the registry, start the engine."""
        preload()
        device = pick_device(settings.device)
        dtype = pick_dtype(settings.dtype, device)
        if settings.model.startswith(RANDOM):
            size = settings.model.removeprefix(RANDOM)
            return cls.over(settings, random_weights(size, str(EMBEDDED_MODEL), device, dtype))
        return cls.over(settings, load(settings.model, device, dtype))

    @classmethod
    def over(cls, settings: Settings, loaded: LoadedModel) -> "Service":
        """The same over a model that is already in memory."""
        sys.setswitchinterval(SWITCH_S)
        if threads := settings.cpu_threads or (1 if loaded.device.type == "cuda" else 0):
            torch.set_num_threads(threads)  # beside a GPU the work is many small things at a time, not one large
        registry = open_registry(
            settings.adapters,
            loaded.spec,
            max_rank=settings.max_rank,
            keep_versions=settings.keep_versions,
            grace_s=settings.request_seconds,
            shared=settings.shared_adapters,
        )
        registry.open()
        limits = _limits(settings)
        memory = plan_memory(loaded, settings.kv_gb, limits)
        log.info("%s on %s: %s", loaded.spec.name, loaded.device, memory)
        engine = Engine(loaded, registry, limits, memory)
        engine.start()
        if loaded.device.type == "cuda":
            free, whole = torch.cuda.mem_get_info(loaded.device)
            log.info("warm; %.1f of %.1f GB free for adapters and the work itself", free / 1e9, whole / 1e9)
        if isinstance(registry, SharedRegistry):
            registry.on_unload = lambda names: _free(engine, names)
        service = cls(settings, loaded, registry, engine)
        service.clip_readers.start()
        return service

    def seen_by(self, caller: Caller) -> "Service":
        """The same service with the adapters that this caller sees, and its tenant's selection."""
        seen = copy.copy(self)
        seen.registry = VisibleRegistry(self.registry.whole, caller)
        return seen

    @property
    def shared(self) -> ObjectStore | None:
        """The store that replicas share, where there is one."""
        whole = self.registry.whole
        return whole.shared if isinstance(whole, SharedRegistry) else None

    @property
    def active(self) -> str | None:
        """The adapter or mix of requests that name none: the tenant's choice, or everybody's where it is seen."""
        selected = self.choices.all()
        chosen = selected.get(self.registry.caller.tenant or EVERYBODY)
        if chosen is None:
            chosen = selected.get(EVERYBODY, BASE)
            if not self.registry.caller.sees_all and not set(names_of(chosen)) <= set(self.registry.names()):
                return None
        if chosen == BASE or not set(names_of(chosen)) <= {*self.registry.names(), *self.registry.broken()}:
            return None  # also where it is being removed at this moment
        return chosen

    def select(self, adapter: str) -> str | None:
        """Make it the active one; `base` is none. What is active now.

        Raises AdapterNotFound, AdapterRejected, or BadRequest for what cannot be everybody's.
        """
        shares = self.shares(adapter)
        tenant = self.registry.caller.tenant
        if tenant is None and (owned := [s.adapter.name for s in shares if s.adapter.manifest.owner]):
            raise BadRequest(f"{owned[0]!r} belongs to a tenant, so it cannot answer everybody; use that tenant's key.")
        self.choices.change(lambda chosen: chosen.update({tenant or EVERYBODY: adapter}))
        return self.active

    def deselect(self, name: str | None = None) -> None:
        """No adapter is active any more; with ``name``, only where that one was.

        For a tenant this ends its own choice, else everybody's and that of all tenants.
        """
        tenant = self.registry.caller.tenant
        if tenant is not None:
            if name is None or name in names_of(self.active or BASE):
                self.choices.change(lambda chosen: chosen.update({tenant: BASE}))
            return

        def edit(chosen: Chosen) -> None:
            chosen.update({whose: BASE for whose in chosen if name is None or name in names_of(chosen[whose])})

        self.choices.change(edit)

    def close(self) -> None:
        """Let running requests end within the drain time, then stop."""
        self.engine.drain(self.settings.drain_seconds)
        self.engine.close()
        self.clip_readers.close()
        self.decoders.close()

    def hear(
        self, data: bytes, filename: str | None = None, *, transcript: bool = False
    ) -> tuple[CutReceipt, list[Clip]]:
        """Decode a recording and cut it into clips; ``transcript``: as `FeatureExtractor.cut` has it.

        What is kept of encoded clips is the tenant's own: another's answer is never the quicker for it.
        Raises AudioError, TooLarge or BadRequest.
        """
        receipt, packed = self.clip_readers.run(data, filename, transcript=transcript)
        tenant = self.registry.caller.tenant or ""
        clips = [clip.unpack(self.features) for clip in packed]
        return receipt, [replace(clip, key=f"{tenant}:{clip.key}") for clip in clips]

    def shares(self, adapter: str | None) -> tuple[Share, ...]:
        """The adapters behind what a request names: a name, `base`, a mix `a:0.7,b:0.3`, or the active one.

        Raises AdapterNotFound, AdapterRejected or BadRequest.
        """
        named = adapter or self.active
        if named in (None, BASE):
            return ()
        shares = tuple(self._share(part) for part in str(named).split(","))
        names = [share.adapter.name for share in shares]
        if len(set(names)) < len(names):
            raise BadRequest(f"The mix {named!r} names an adapter twice.")
        return shares

    def classifier(self, adapter: str | None) -> Adapter:
        """The adapter whose head is to classify: the one named, or the active one.

        Raises AdapterNotFound, AdapterRejected, or BadRequest for one without a head.
        """
        named = adapter or self.active
        if named is not None and named != BASE and not set(named) & set(",:"):
            found = self.registry.get(named)
            if is_head(found):
                return found
        heads = ", ".join(known.name for known in self.registry.all() if is_head(known))
        told = f"these do: {heads}" if heads else "none here does"
        if named is None:
            raise BadRequest(f"Name an adapter that carries a classification head; {told}.")
        if set(named) & set(",:"):
            raise BadRequest(f"{named[:80]!r} is a mix; one adapter with a head classifies alone; {told}.")
        raise BadRequest(f"{named!r} carries no classification head; {told}. /generate asks it in words.")

    def request(
        self,
        messages: Sequence[Message],
        shares: tuple[Share, ...],
        sampling: Sampling,
        emit: Callable[[Event], None],
        deadline: float = float("inf"),
        grammar: Grammar | None = None,
        fit: bool = False,
    ) -> Request:
        """Render a conversation into a request for the engine; ``fit`` shortens the answer to the room there is.

        Raises BadRequest for reserved tokens, and PromptTooLong.
        """
        prompt = self.prompts.render(messages, room=self.engine.room)
        clips = tuple(part for message in messages for part in message.parts if isinstance(part, Clip))
        if fit:
            room = max(1, self.engine.room - len(prompt))
            sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room))
        return Request(tuple(prompt), clips, shares, sampling, emit, deadline, grammar)

    def stream(
        self, messages: Sequence[Message], shares: tuple[Share, ...] = (), sampling: Sampling | None = None
    ) -> Iterator[Token | Done]:
        """Submit and yield events as they come; for callers without an event loop.

        Raises what `Engine.submit` raises, and the error of a request that failed.
        """
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.engine.submit(self.request(messages, shares, sampling or Sampling(), events.put))
        while True:
            event = events.get()
            if isinstance(event, Failed):
                raise event.error
            yield event
            if isinstance(event, Done):
                return

    def generate(
        self, messages: Sequence[Message], shares: tuple[Share, ...] = (), sampling: Sampling | None = None
    ) -> Done:
        """Submit and wait for the end."""
        *_, done = self.stream(messages, shares, sampling)
        assert isinstance(done, Done)
        return done

    def unload(self, name: str | None = None) -> tuple[list[str], str]:
        """Back to the base model: clear the active adapter, free the slots; (freed uids, fingerprint now).

        With ``name``, that adapter alone. Running requests end on what they began with. A caller that does not
        see all frees the slots of what it may change, and leaves others theirs.
        """
        if name is not None:
            self.registry.get(name)
        self.deselect(name)
        caller = self.registry.caller
        names: list[str] | None = None if name is None else [name]
        if not caller.sees_all:
            own = [a.name for a in self.registry.all() if caller.may_change(a.name, a.manifest.owner)]
            names = [one for one in own if name in (None, one)]
        self.registry.whole.tell_unload(names)
        freed = [uid for future in _free(self.engine, names) for uid in future.result()]
        return freed, self.engine.fingerprint().result()

    def _share(self, part: str) -> Share:
        name, _, weight = part.strip().partition(":")
        try:
            share = float(weight) if weight else 1.0
        except ValueError:
            raise BadRequest(f"{part!r} is not name:weight; write a mix as a:0.7,b:0.3.") from None
        if not -10.0 <= share <= 10.0:  # also refuses NaN
            raise BadRequest(f"The weight in {part!r} must lie between -10 and 10.")
        if name == BASE:
            raise BadRequest("`base` cannot be part of a mix; the base model is always under it.")
        found = self.registry.get(name)
        if is_head(found):
            raise BadRequest(f"The adapter {name!r} is a classification head and says no words; send it to /classify.")
        return Share(found, share)


def _free(engine: Engine, names: list[str] | None) -> "list[Future[list[str]]]":
    """Free the slots of these adapters; None: of all."""
    return [engine.free_slots(one) for one in ([None] if names is None else names)]


def is_head(adapter: Adapter) -> bool:
    return adapter.report.serving == "classify"


def names_of(adapter: str) -> list[str]:
    """The adapter names in a name or a mix."""
    return [part.strip().partition(":")[0] for part in adapter.split(",")]


def user_message(clips: Sequence[Sequence[Clip]], prompt: str, system: str | None = None) -> list[Message]:
    """The conversation of one question about some recordings (each a list of clips)."""
    flat = tuple(itertools.chain.from_iterable(clips))
    messages = [Message("system", (system,))] if system else []
    return [*messages, Message("user", (*flat, prompt))]


def default_prompt(shares: Sequence[Share]) -> str:
    """The prompt of a request that brings none: its adapter's own, or to transcribe."""
    if len(shares) == 1 and shares[0].adapter.manifest.prompt:
        return str(shares[0].adapter.manifest.prompt)
    return DEFAULT_PROMPT


def read_audio(path: Path) -> bytes:
    """A recording on this machine. Raises BadRequest when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}.") from None


def decoders(settings: Settings) -> int:
    """Processes that decode recordings: one per core, few enough to leave the engine's thread its own."""
    return settings.cpu_threads or min(MOST_DECODERS, os.cpu_count() or 1)


def _limits(settings: Settings) -> EngineLimits:
    return EngineLimits(
        max_resident=settings.max_resident,
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        step_tokens=settings.step_tokens,
        max_context=settings.max_context,
        host_cache_bytes=settings.host_cache_mb << 20,
        encoder_cache_bytes=settings.encoder_cache_mb << 20,
        decoder=settings.decoder,
        weights=settings.weights,
    )
