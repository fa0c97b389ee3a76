"""Drive an engine from a test: submit conversations, collect their tokens, compare with the oracle."""

import queue
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.grammar import Grammar
from app.engine.memory import BLOCK_SIZE, MemoryPlan, plan
from app.engine.request import Done, Event, Failed, Logprobs, LoRAWeight, Request, Token
from app.engine.sampling_params import SamplingParams
from app.errors import OvertoneError
from app.models.features import Clip
from app.models.loading import LoadedModel
from app.models.prompt import Message, PromptRenderer
from app.models.shape import shape_of
from app.registry.local import LocalRegistry
from tests.support import clips_of, greedy, mix_adapters, oracle, oracle_model, peft_model, random_model, tone

NEW = 20
WAVES = [tone(150 + 110 * index, 0.4 + 0.35 * index) for index in range(4)]
Mix = tuple[tuple[str, float], ...]


@dataclass
class Answer:
    """What came back for one request."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprobs | None] = field(default_factory=list)
    text: str = ""
    done: Done | None = None
    error: OvertoneError | None = None


@dataclass(frozen=True)
class Job:
    """One question: adapters with weights, which waves are heard, and the words."""

    mix: Mix = ()
    waves: tuple[int, ...] = (0,)
    prompt: str = "hello"


class Driver:
    """An engine of its own over a random model and a registry of published adapters."""

    def __init__(
        self,
        root: Path,
        folders: dict[str, Path],
        blocks: int = 2048,
        text: dict[str, int] | None = None,
        loaded: LoadedModel | None = None,
        cap: int | None = None,
        max_rank: int = 64,
        memory: MemoryPlan | None = None,
        **limits: Any,
    ) -> None:
        self.loaded = loaded or random_model(**(text or {}))
        self.registry = LocalRegistry(root, self.loaded.spec, max_rank=max_rank, keep_versions=5)
        self.registry.open()
        self.adapters = {name: self.registry.publish(folder, name) for name, folder in folders.items()}
        defaults: dict[str, Any] = dict(
            max_resident=32,
            max_batch=64,
            max_queue=256,
            step_tokens=512,
            max_context=2048,
            host_cache_bytes=1 << 28,
            encoder_cache_bytes=1 << 24,
        )
        asked, memory = EngineConfig(**(defaults | limits)), memory or MemoryPlan(blocks, BLOCK_SIZE, 1, 1)
        if cap is not None:  # bytes of a card that this CPU stands for
            shape = shape_of(self.loaded.model.config, self.loaded.spec)
            memory = plan(shape, asked, self.loaded.dtype, cap, fused=asked.decoder == "fused")
        self.engine = Engine(self.loaded, self.registry, memory.applied(asked), memory)
        self.engine.start()
        self._prompts = PromptRenderer(self.loaded.processor)
        self._queues: list[tuple[Request, queue.Queue[Event]]] = []

    def messages(self, job: Job) -> list[Message]:
        waves = [WAVES[index] for index in job.waves]
        return [Message("user", (*clips_of(self.loaded, *waves), job.prompt))]

    def submit(
        self,
        job: Job,
        sampling: SamplingParams | None = None,
        deadline: float = float("inf"),
        grammar: Grammar | None = None,
    ) -> Request:
        messages = self.messages(job)
        clips = tuple(p for m in messages for p in m.parts if isinstance(p, Clip))
        events: queue.Queue[Event] = queue.Queue()
        request = Request(
            tuple(self._prompts.render(messages)),
            clips,
            tuple(LoRAWeight(self.adapters[name], weight) for name, weight in job.mix),
            sampling or greedy(NEW),
            events.put,
            deadline,
            grammar,
        )
        self.engine.submit(request)
        self._queues.append((request, events))
        return request

    def answers(self) -> list[Answer]:
        """The answers of all requests submitted since the last call, in order."""
        answers = [self._collect(events) for _, events in self._queues]
        self._queues.clear()
        return answers

    def ask(self, *jobs: Job, sampling: SamplingParams | None = None) -> list[Answer]:
        for job in jobs:
            self.submit(job, sampling)
        return self.answers()

    def assert_idle(self) -> None:
        """Nothing is held once everything has ended."""
        engine = self.engine
        engine.call(lambda: None).result()
        assert engine.scheduler.pool.available == engine.scheduler.pool.blocks
        assert not engine.scheduler.running
        assert not engine.scheduler.waiting
        assert all(slot.users == 0 for slot in engine.lora_manager.slots.slots)
        assert not engine.runner._audio
        assert not engine.lora_manager._gathered
        assert not engine.lora_manager._reserved
        assert not engine.runner.peft_fallback._users

    @staticmethod
    def _collect(events: "queue.Queue[Event]") -> Answer:
        answer = Answer()
        while answer.done is None and answer.error is None:
            event = events.get(timeout=300)
            if isinstance(event, Token):
                answer.text += event.text
                if event.id is not None:
                    answer.tokens.append(event.id)
                    answer.logprobs.append(event.logprobs)
            elif isinstance(event, Failed):
                answer.error = event.error
            else:
                answer.done = event
        return answer


class Oracle:
    """Plain transformers + PEFT, each request alone; answers are remembered."""

    def __init__(self, loaded: LoadedModel, folders: dict[str, Path]) -> None:
        self._loaded = loaded
        self._folders = folders
        self._models: dict[Mix, Any] = {}
        self._answers: dict[Job, list[int]] = {}

    def __call__(self, job: Job) -> list[int]:
        if job not in self._answers:
            waves: Sequence[np.ndarray] = [WAVES[index] for index in job.waves]
            messages = [Message("user", (*clips_of(self._loaded, *waves), job.prompt))]
            ids = oracle(self._model(job.mix), self._loaded, messages, list(waves), NEW)
            if ids[-1] in PromptRenderer(self._loaded.processor).eos_ids:
                ids = ids[:-1]
            self._answers[job] = ids
        return self._answers[job]

    def _model(self, mix: Mix) -> Any:
        if mix not in self._models:
            folders = [(self._folders[name], weight) for name, weight in mix]
            if not folders:
                self._models[mix] = oracle_model(self._loaded)
            elif len(folders) == 1 and folders[0][1] == 1.0:
                self._models[mix] = peft_model(self._loaded, folders[0][0])
            else:
                self._models[mix] = mix_adapters(self._loaded, folders)
        return self._models[mix]
