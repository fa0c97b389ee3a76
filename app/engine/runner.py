"""The only room that touches the GPU: a plan of chunks in, next tokens out."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from app.engine.alone import AlonePath
from app.engine.decoder import Decoder, Heard, ModuleDecoder
from app.engine.encoder import AudioEncoder
from app.engine.kv_cache import PagedCache
from app.engine.limits import EngineLimits
from app.engine.lora import AdapterBank, HostAdapter
from app.engine.memory import MemoryPlan, use_fused
from app.engine.request import Sequence as EngineSequence
from app.engine.sampler import Drawn, choose
from app.engine.scheduler import Chunk
from app.engine.slots import Slot
from app.model.base import LoadedModel
from app.model.device_memory import is_out_of_memory
from app.model.features import Clip
from app.model.head import Moments, moments
from app.registry.registry import Registry

SMALL_STEP = 16  # tokens
AUDIO_PARTS = ("audio_tower", "projector")


class Runner:
    """Owns the model, the KV cache and the adapter columns. Every method runs on the engine's thread."""

    def __init__(self, loaded: LoadedModel, registry: Registry, limits: EngineLimits, memory: MemoryPlan) -> None:
        model = loaded.model
        text_config = model.config.get_text_config()
        fused = use_fused(limits, loaded.device)
        self.alone = AlonePath(model, registry)
        self.bank = AdapterBank(model, language_model=not fused)
        graphs = None
        if fused and loaded.device.type == "cuda" and loaded.dtype != torch.float16:  # there the tower clamps
            from app.engine.tower_graphs import TowerGraphs

            graphs = TowerGraphs(model.model.audio_tower)
        self.encoder = AudioEncoder(model, self.bank, limits.encoder_cache_bytes, graphs)
        self.cache = PagedCache(text_config, memory.pages, memory.page_size, loaded.device, loaded.dtype)
        self.decoder: Decoder
        if fused:
            from app.engine.fused_decoder import FusedDecoder

            self.decoder = FusedDecoder(model, self.cache, limits)
        else:
            self.decoder = ModuleDecoder(model, self.bank, self.cache)
        self._audio_token: int = model.config.audio_token_id
        self._device = loaded.device
        self._audio: dict[str, torch.Tensor] = {}

    @property
    def overlaps(self) -> bool:
        """Whether `launch` returns before the device is done."""
        return self.decoder.overlaps

    def warm_up(self) -> None:
        """Compile and capture whatever the first requests would otherwise wait for."""
        self.encoder.warm_up()
        self.decoder.warm_up()

    def catch_up(self) -> bool:
        """As `Decoder.catch_up`."""
        return self.decoder.catch_up()

    @property
    def columns(self) -> int:
        """As `Decoder.columns`."""
        return self.decoder.columns

    def load(self, slot: Slot, adapter: HostAdapter, capacity: int) -> Iterator[None]:
        """Make an adapter resident in its slot, which it is when what is returned has come to its end."""
        self.bank.load(slot, adapter, capacity)
        return self.decoder.load(slot, adapter, capacity)

    def clear(self, slot: Slot) -> None:
        self.bank.clear(slot)
        self.decoder.clear(slot)

    def forget(self, sequence: EngineSequence) -> None:
        """Free what is kept for a sequence besides its pages."""
        self._audio.pop(sequence.request.id, None)
        self.decoder.forget(sequence)
        self.alone.forget(sequence)

    def alive(self) -> bool:
        """Whether the device still computes: after some CUDA errors it gives the same one for ever."""
        try:
            return bool(torch.ones(1, device=self._device).add_(1).item() == 2)
        except RuntimeError as error:
            return is_out_of_memory(error)

    def free_memory(self) -> None:
        """Give back what the device can do without."""
        self.encoder.drop()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def launch(self, chunks: Sequence[Chunk]) -> Drawn:
        """Compute the chunks and draw the next token of each final one, in order; see `overlaps`."""
        final = [chunk.sequence for chunk in chunks if chunk.final]
        with self._fitting_threads(sum(chunk.tokens for chunk in chunks)):
            logits = self._logits(chunks)
            drawn = choose(
                logits,
                [sequence.request.sampling for sequence in final],
                [sequence.tokens for sequence in final],
                [sequence.request.grammar for sequence in final],
                [sequence.length for sequence in final],
                self.decoder.likeliest,
            )
            self.decoder.keep(final, drawn.ids)
            return drawn

    def moments(self, clip: Clip) -> Moments:
        """What classification heads hear of a clip: the base's own tower, whatever adapters are resident."""
        return moments(self.encoder.hear(clip, {}))

    @contextmanager
    def _fitting_threads(self, tokens: int) -> Iterator[None]:
        """On a CPU, one thread for small steps: waking more costs longer than the work they take over."""
        threads = torch.get_num_threads()
        if self._device.type != "cpu" or tokens > SMALL_STEP or threads == 1:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def _logits(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """Last-position logits [final chunks, vocabulary], in the chunks' order."""
        together = [chunk for chunk in chunks if not chunk.sequence.alone]
        if len(together) == len(chunks):
            return self.decoder.step(chunks, self._heard)
        rows = {}
        if together:
            rows = dict(
                zip((id(c) for c in together if c.final), self.decoder.step(together, self._heard), strict=True)
            )
        for chunk in chunks:
            if chunk.sequence.alone:
                rows[id(chunk)] = self.alone.step(chunk.sequence, chunk.tokens)
        return torch.stack([rows[id(chunk)] for chunk in chunks if chunk.final])

    def _heard(self, chunk: Chunk) -> Heard | None:
        """Where in a chunk audio stands, and its embeddings [places, hidden size]; None without audio."""
        sequence = chunk.sequence
        if not sequence.request.clips or chunk.start >= len(sequence.request.prompt):
            return None
        prompt = chunk.ids[: len(sequence.request.prompt) - chunk.start]  # an answer may hold the token by chance
        places = [place for place, token in enumerate(prompt) if token == self._audio_token]
        if not places:
            return None
        first = sequence.tokens[: chunk.start].count(self._audio_token)
        return places, self._listen(sequence)[first : first + len(places)]

    def _listen(self, sequence: EngineSequence) -> torch.Tensor:
        """Audio embeddings of a sequence's clips, kept until it ends."""
        request = sequence.request
        if request.id not in self._audio:
            begun = time.monotonic()
            tower, projector = (
                {share.adapter.uid: share.weight for share in request.shares if part in share.adapter.report.parts}
                for part in AUDIO_PARTS
            )
            self._audio[request.id] = self.encoder.encode(request.clips, tower, projector)
            sequence.timings.audio = 1e3 * (time.monotonic() - begun)
        return self._audio[request.id]
