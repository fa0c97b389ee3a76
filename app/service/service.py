"""The service: model, registry and engine of one process. The HTTP API and the command line both use it."""

import copy
import gc
import logging
import queue
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace

import torch

from app.access.caller import OPERATOR, Caller
from app.audio.cut_receipt import CutReceipt
from app.audio.forkserver import preload
from app.engine.config import EngineConfig
from app.engine.encoder.classifiers import Heads
from app.engine.engine import Engine
from app.engine.memory import named_shortage, plan_memory, plan_on
from app.engine.request import Done, Event, Request, Token
from app.models.device_memory import cap_allocator, device_cap
from app.models.features import Clip
from app.models.loading import LoadedModel, load, pick_device, pick_dtype
from app.models.prompt import PromptRenderer
from app.models.shape import shape_to_load
from app.models.structured.grammar import Grammars
from app.models.weights.random_weights import RANDOM, random_weights
from app.registry.base import Registry
from app.registry.remote import RemoteStore
from app.registry.replicated import ReplicatedRegistry, open_registry
from app.registry.tenant_view import TenantRegistry
from app.service.adapters import TenantAdapters, free_slots
from app.service.decoding import ClipReaders
from app.service.generation import GenerationInput, unwrap
from app.settings import EMBEDDED_MODEL, Settings

log = logging.getLogger(__name__)
# The engine's thread releases the interpreter lock at every tensor operation. With Python's default of 5 ms it would
# wait that long each time to get it back from threads that prepare recordings.
SWITCH_S = 1e-5


def freeze_gc_heap() -> None:
    """Exempt the objects that exist now from garbage collection; to be called once a server is loaded and warm.

    A full collection visits half a million objects of torch, transformers and the model and holds the interpreter
    lock for some 0.3 s, during which no stream goes on.
    """
    gc.collect()
    gc.freeze()


def engine_config(settings: Settings) -> EngineConfig:
    """The engine's part of the settings: its fields have the settings' names."""
    return EngineConfig(**{field.name: getattr(settings, field.name) for field in fields(EngineConfig)})


def _load(settings: Settings, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """A model by its setting: random weights, a folder or a Hub id. Raises as `load` and `random_weights`."""
    if settings.model.startswith(RANDOM):
        size = settings.model.removeprefix(RANDOM)
        return random_weights(size, str(EMBEDDED_MODEL), device, dtype, settings.weights)
    return load(settings.model, device, dtype, settings.weights)


class Service:
    """All that lives as long as the process, for one caller. `open` blocks while the model loads."""

    def __init__(
        self, settings: Settings, loaded: LoadedModel, registry: Registry, engine: Engine, readers: ClipReaders
    ) -> None:
        self.settings = settings
        self.loaded = loaded
        self.engine = engine
        self.readers = readers
        self.features = readers.features
        self.prompts = PromptRenderer(loaded.processor)
        vocabulary = loaded.model.config.get_text_config().vocab_size
        self.grammars = Grammars(loaded.processor, vocabulary, self.prompts.eos_ids)
        self.heads = Heads(registry)
        self.registry = TenantRegistry(registry, OPERATOR)
        self.adapters = TenantAdapters(self.registry, engine, self.heads)
        self.fingerprint = engine.fingerprint().result()

    @classmethod
    def open(cls, settings: Settings) -> "Service":
        """Load the model, open the registry, start the engine. Raises ModelRejected and what they raise.

        On a GPU a model that does not fit is refused before any of it is loaded: DoesNotFit.
        """
        preload()
        device = pick_device(settings.device)
        dtype = pick_dtype(settings.dtype, device)
        if device.type == "cuda":
            limits = engine_config(settings)
            plan_on(
                device, shape_to_load(settings.model, settings.weights), settings.kv_gb, limits, dtype, settings.gpu_gb
            )
            cap_allocator(device, settings.gpu_gb)
        with named_shortage(device_cap(device, settings.gpu_gb)):
            return cls.over(settings, _load(settings, device, dtype))

    @classmethod
    def over(cls, settings: Settings, loaded: LoadedModel) -> "Service":
        """A service over a model that is already in memory."""
        sys.setswitchinterval(SWITCH_S)
        readers = ClipReaders(settings, loaded)
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
        limits = engine_config(settings)
        memory = plan_memory(loaded, settings.kv_gb, limits, settings.gpu_gb)
        log.info("%s on %s: %s", loaded.spec.name, loaded.device, memory)
        engine = Engine(loaded, registry, memory.applied(limits), memory)
        engine.start()
        if loaded.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(loaded.device)
            log.info("warm; %.1f of %.1f GB free for adapters and the work itself", free / 1e9, total / 1e9)
        if isinstance(registry, ReplicatedRegistry):
            registry.on_unload = lambda names: free_slots(engine, names)
        return cls(settings, loaded, registry, engine, readers)

    def seen_by(self, caller: Caller) -> "Service":
        """The same service with the adapters that this caller sees and its tenant's selection."""
        seen = copy.copy(self)
        seen.registry = TenantRegistry(self.registry.whole, caller)
        seen.adapters = TenantAdapters(seen.registry, self.engine, self.heads)
        return seen

    @property
    def shared(self) -> RemoteStore | None:
        """The store that replicas share, or None."""
        whole = self.registry.whole
        return whole.shared if isinstance(whole, ReplicatedRegistry) else None

    def wait_for_decoders(self) -> None:
        """Block until a decoding process answers. Raises NoDecoder when none can be started."""
        self.readers.wait()

    def close(self) -> None:
        """Let running requests end within the drain time, then stop."""
        self.engine.drain(self.settings.drain_seconds)
        self.engine.close()
        self.readers.close()

    def read_clips(
        self, data: bytes, filename: str | None = None, *, transcript: bool = False
    ) -> tuple[CutReceipt, list[Clip]]:
        """Decode a recording and cut it into clips; see `FeatureExtractor.cut` for ``transcript``.

        The clips' keys in the encoder's cache begin with the tenant, so that no tenant's answer is quicker because of
        another's recordings. Raises AudioError, TooLarge or BadRequest.
        """
        tenant = self.registry.caller.tenant or ""
        return self.readers.read(data, filename, transcript=transcript, key_prefix=f"{tenant}:")

    def declared_seconds(self, data: bytes, filename: str | None = None) -> float:
        """The length by the recording's own header in seconds; 0 where it states none. Raises TooLarge."""
        return self.readers.declared_seconds(data, filename)

    def request(self, asked: GenerationInput, emit: Callable[[Event], None], deadline: float = float("inf")) -> Request:
        """Render an input into a request for the engine. ``deadline``: `time.monotonic` seconds.

        Raises BadRequest for the model's control tokens in a text, and PromptTooLong.
        """
        conversation, sampling = asked.conversation, asked.sampling
        prompt = self.prompts.render(
            conversation.messages, room=self.engine.max_tokens_per_request, tools=conversation.tools
        )
        if asked.fit:
            left = max(1, self.engine.max_tokens_per_request - len(prompt))
            sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, left))
        return Request(
            tuple(prompt), conversation.clips, asked.adapters, sampling, emit, deadline=deadline, grammar=asked.grammar
        )

    def stream(self, asked: GenerationInput) -> Iterator[Token | Done]:
        """Submit an input and yield its events up to `Done`; for callers without an event loop.

        Raises what `Engine.submit` raises, and the error of a request that failed.
        """
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.engine.submit(self.request(asked, events.put))
        while True:
            event = unwrap(events.get())
            yield event
            if isinstance(event, Done):
                return

    def generate(self, asked: GenerationInput) -> Done:
        """Submit an input and wait for its end. Raises what `stream` raises."""
        *_, done = self.stream(asked)
        assert isinstance(done, Done)
        return done
