"""The model on its device: chunks in, next tokens out. Only this module and those below it touch the device."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from app.engine.background import Pieces
from app.engine.config import EngineConfig
from app.engine.decoder import AudioEmbeddings, Decoder, DeviceDecoder, ModuleDecoder
from app.engine.encoder.audio_encoder import AudioEncoder
from app.engine.kv_cache.paged_cache import PagedCache
from app.engine.lora.layers import HostAdapter, LoRABank
from app.engine.lora.peft_fallback import PeftFallback
from app.engine.lora.slots import Slot
from app.engine.memory import MemoryPlan, use_fused
from app.engine.sampler import Drawn, choose
from app.engine.scheduler import Chunk
from app.engine.sequence import Sequence as EngineSequence
from app.engine.stopwatch import Stopwatch
from app.models.audio_tower import PooledWhisper
from app.models.device_memory import is_out_of_memory
from app.models.features import Clip
from app.models.head import Moments, moments
from app.models.layout import audio_tower
from app.models.loading import LoadedModel, combine_checksums, weight_checksums

SMALL_STEP = 16  # tokens
AUDIO_PARTS = ("audio_tower", "projector")


class Runner:
    """Owns the model, the KV cache and the adapter columns. Every method runs on the engine's thread.

    Raises BadRequest where the configuration asks for a decoder that cannot run here.
    """

    def __init__(self, loaded: LoadedModel, limits: EngineConfig, memory: MemoryPlan) -> None:
        model = loaded.model
        text_config = model.config.get_text_config()
        fused = use_fused(limits, loaded.device, loaded.family.language_model.fused)
        self._model = model
        self.peft_fallback = PeftFallback(model, memory.plain_bytes)
        self.bank = LoRABank(model, language_model=not fused)
        graphs = None
        captured = isinstance(loaded.family.tower, PooledWhisper) and loaded.dtype != torch.float16  # it clamps there
        if fused and captured and loaded.device.type == "cuda":
            from app.engine.cuda.encoder_graphs import EncoderGraphs

            graphs = EncoderGraphs(audio_tower(model))
        self.encoder = AudioEncoder(model, self.bank, limits.encoder_cache_bytes, graphs)
        self.cache = PagedCache(text_config, memory.blocks, memory.block_size, loaded.device, loaded.dtype)
        self.decoder: Decoder
        self.device_decoder: DeviceDecoder | None = None
        if fused:
            from app.engine.cuda.decoder import CudaDecoder

            self.decoder = self.device_decoder = CudaDecoder(model, self.cache, limits, memory)
        else:
            self.decoder = ModuleDecoder(model, self.bank, self.cache)
        self._audio_token: int = model.config.audio_token_id
        self._device = loaded.device
        self._audio: dict[str, torch.Tensor] = {}  # embeddings by request
        self._encoding: dict[str, Stopwatch] = {}  # by request

    @property
    def overlaps(self) -> bool:
        """True when `launch` returns before the device is done."""
        return self.device_decoder is not None and self.device_decoder.overlaps

    def warm_up(self) -> None:
        """Compile and capture everything that the first requests would otherwise wait for."""
        self.encoder.warm_up()
        if self.device_decoder:
            self.device_decoder.warm_up()

    def capture_pending(self) -> bool:
        """As `DeviceDecoder.capture_pending`."""
        return self.device_decoder is not None and self.device_decoder.capture_pending()

    @property
    def columns(self) -> int:
        """Adapter columns that need no further memory."""
        return self.device_decoder.columns if self.device_decoder else self.bank.columns

    def load(self, slot: Slot, adapter: HostAdapter, capacity: int) -> Iterator[None]:
        """Copy an adapter into its slot; it is resident when the iterator has ended."""
        self.bank.load(slot, adapter, capacity)
        return self.device_decoder.load(slot, adapter, capacity) if self.device_decoder else iter(())

    def clear(self, slot: Slot) -> None:
        """Zero the columns of an evicted slot."""
        self.bank.clear(slot)
        if self.device_decoder:
            self.device_decoder.clear(slot)

    def free(self, sequence: EngineSequence) -> None:
        """Free everything that is kept for a sequence besides its blocks."""
        self._audio.pop(sequence.request.id, None)
        self._encoding.pop(sequence.request.id, None)
        if self.device_decoder:
            self.device_decoder.free(sequence)
        self.peft_fallback.free(sequence)

    def free_audio(self, sequences: Sequence[EngineSequence]) -> None:
        """Free the audio embeddings of sequences that were preempted; they are computed anew with their prompts."""
        for sequence in sequences:
            self._audio.pop(sequence.request.id, None)

    def alive(self) -> bool:
        """True while the device computes: after some CUDA errors every call fails with the same one."""
        try:
            return bool(torch.ones(1, device=self._device).add_(1).item() == 2)
        except RuntimeError as error:
            return is_out_of_memory(error)

    def free_memory(self) -> None:
        """Free memory that can be rebuilt: cached encoder outputs, CUDA graphs, and the allocator's reserve."""
        self.encoder.clear()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the last step may still replay a graph
        if self.device_decoder:
            self.device_decoder.free_memory()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def fingerprint(self) -> Pieces[str]:
        """Fingerprint of the base weights as they are in memory now, one tensor per piece."""
        lines = []
        for line in weight_checksums(self._model):
            lines.append(line)
            yield
        return combine_checksums(lines)

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
                self.decoder.finite_argmax,
            )
            if self.device_decoder:
                self.device_decoder.keep_tokens(final, drawn.ids)
            return drawn

    def pool(self, clip: Clip) -> Moments:
        """Pooled encoder output of a clip, for classifiers: by the base's own tower, without adapters."""
        return moments(self.encoder.encode(clip, {}))

    def encoding_ms(self, sequence: EngineSequence) -> float:
        """Milliseconds of encoding a sequence's clips, once its first token has been read; 0 without audio."""
        stopwatch = self._encoding.pop(sequence.request.id, None)
        return stopwatch.milliseconds if stopwatch else 0.0

    @contextmanager
    def _fitting_threads(self, tokens: int) -> Iterator[None]:
        """One thread for small steps on a CPU: waking others takes longer than their part of the work."""
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
        batched = [chunk for chunk in chunks if not chunk.sequence.alone]
        logits = self.decoder.step(batched, [self._audio_of(chunk) for chunk in batched]) if batched else None
        if logits is not None and len(batched) == len(chunks):
            return logits
        rows: dict[int, torch.Tensor] = {}
        if logits is not None:
            rows = dict(zip((id(chunk) for chunk in batched if chunk.final), logits, strict=True))
        for chunk in chunks:
            if chunk.sequence.alone:
                rows[id(chunk)] = self.peft_fallback.step(chunk.sequence, chunk.tokens, self.cache)
        return torch.stack([rows[id(chunk)] for chunk in chunks if chunk.final])

    def _audio_of(self, chunk: Chunk) -> AudioEmbeddings | None:
        """Audio embeddings of a chunk and their positions in it; None without audio."""
        sequence = chunk.sequence
        if not sequence.request.clips or chunk.start >= len(sequence.request.prompt):
            return None
        prompt = chunk.ids[: len(sequence.request.prompt) - chunk.start]  # an answer may hold the token by chance
        positions = [position for position, token in enumerate(prompt) if token == self._audio_token]
        if not positions:
            return None
        first = sequence.tokens[: chunk.start].count(self._audio_token)
        return AudioEmbeddings(positions, self._embeddings_of(sequence)[first : first + len(positions)])

    def _embeddings_of(self, sequence: EngineSequence) -> torch.Tensor:
        """Audio embeddings of all of a sequence's clips [audio tokens, hidden size], kept until it ends."""
        request = sequence.request
        if request.id not in self._audio:
            tower, projector = (
                {one.adapter.uid: one.weight for one in request.lora_weights if part in one.adapter.report.parts}
                for part in AUDIO_PARTS
            )
            with Stopwatch(self._device) as stopwatch:
                self._audio[request.id] = self.encoder.embed(request.clips, tower, projector)
            self._encoding[request.id] = stopwatch
        return self._audio[request.id]
