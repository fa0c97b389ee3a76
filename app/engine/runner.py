"""The only room that touches the GPU: a plan of chunks in, next tokens out."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from app.engine.alone import AlonePath
from app.engine.encoder import AudioEncoder
from app.engine.kv_cache import ATTENTION, PagedCache, register
from app.engine.lora import AdapterBank, HostAdapter, MultiLoRALinear
from app.engine.request import Sequence as EngineSequence
from app.engine.sampler import Choice, choose
from app.engine.scheduler import Chunk
from app.engine.slots import Slot
from app.model.base import LoadedModel
from app.model.features import Clip
from app.model.head import Moments, moments
from app.registry.registry import Registry

Row = Mapping[str, float]
SMALL_STEP = 16  # tokens
AUDIO_PARTS = ("audio_tower", "projector")


class Runner:
    """Owns the model, the KV cache and the adapter columns. Every method runs on the engine's thread."""

    def __init__(
        self, loaded: LoadedModel, registry: Registry, pages: int, page_size: int, encoder_cache_bytes: int
    ) -> None:
        model = loaded.model
        register()
        self.alone = AlonePath(model, registry.folder)
        self.bank = AdapterBank(model)
        self.encoder = AudioEncoder(model, self.bank, encoder_cache_bytes)
        text_config = model.config.get_text_config()
        self._language_model: Any = model.model.language_model
        self._language_model.config._attn_implementation = ATTENTION
        self._lm_head: MultiLoRALinear = model.lm_head
        self._audio_token: int = model.config.audio_token_id
        self._cache = PagedCache(text_config, pages, page_size, loaded.device, loaded.dtype)
        self._device = loaded.device
        self._audio: dict[str, torch.Tensor] = {}

    def load(self, slot: Slot, adapter: HostAdapter, capacity: int) -> None:
        """Make an adapter resident in its slot."""
        self.bank.load(slot, adapter, capacity)

    def clear(self, slot: Slot) -> None:
        self.bank.clear(slot)

    def forget(self, sequence: EngineSequence) -> None:
        """Free what is kept for a sequence besides its pages."""
        self._audio.pop(sequence.request.id, None)
        self.alone.forget(sequence)

    def step(self, chunks: Sequence[Chunk]) -> list[Choice | None]:
        """Compute the chunks; the next token of each final one, in order.

        None stands for a row that `choose` finds nothing in: that sequence is lost, its neighbours are not.
        """
        final = [chunk.sequence for chunk in chunks if chunk.final]
        with self._fitting_threads(sum(chunk.tokens for chunk in chunks)):
            logits = self._logits(chunks)
            if not final:
                return []
            requests = [sequence.request for sequence in final]
            return choose(
                logits,
                [request.sampling for request in requests],
                [sequence.tokens for sequence in final],
                [request.grammar for request in requests],
            )

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
        rows = dict(zip((id(c) for c in together if c.final), self._together(together), strict=True))
        for chunk in chunks:
            if chunk.sequence.alone:
                rows[id(chunk)] = self.alone.step(chunk.sequence, chunk.tokens)
        ordered = [rows[id(chunk)] for chunk in chunks if chunk.final]
        return torch.stack(ordered) if ordered else torch.empty(0)

    def _together(self, chunks: Sequence[Chunk]) -> Sequence[torch.Tensor]:
        """One packed forward of the language model; logits of the final chunks."""
        if not chunks:
            return []
        embeddings = torch.cat([self._embed(chunk) for chunk in chunks])[None]
        positions = torch.cat([torch.arange(c.sequence.computed, c.sequence.computed + c.tokens) for c in chunks])[
            None
        ].to(self._device)
        layout = self._cache.plan([(c.sequence.pages, c.sequence.computed, c.tokens) for c in chunks])
        self.bank.select([row_of(c.sequence) for c in chunks], [c.tokens for c in chunks])
        hidden = self._language_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask={"full_attention": None},
            past_key_values=self._cache,
            use_cache=False,
            layout=layout,
        ).last_hidden_state
        ends = itertools.accumulate(chunk.tokens for chunk in chunks)
        last = [end - 1 for end, chunk in zip(ends, chunks, strict=True) if chunk.final]
        return self._head(hidden, last)

    def _head(self, hidden: torch.Tensor, last: list[int]) -> Sequence[torch.Tensor]:
        """Logits [vocabulary] of the packed positions ``last`` alone."""
        mask = self._lm_head.mask
        if mask is not None:
            self._lm_head.mask = mask[:, last]
        logits = self._lm_head(hidden[:, last])[0]
        self._lm_head.mask = mask
        return list(logits)

    def _embed(self, chunk: Chunk) -> torch.Tensor:
        """Input embeddings [tokens, hidden size] of a chunk, audio put in place of its placeholders."""
        sequence, start = chunk.sequence, chunk.sequence.computed
        ids = sequence.tokens[start : start + chunk.tokens]
        embeddings: torch.Tensor = self._language_model.embed_tokens(torch.tensor(ids, device=self._device))
        if not sequence.request.clips or start >= len(sequence.request.prompt):
            return embeddings
        places = [place for place, token in enumerate(ids) if token == self._audio_token]
        if places:
            heard = self._listen(sequence)
            first = sequence.tokens[:start].count(self._audio_token)
            index = torch.tensor(places, device=self._device)
            embeddings = embeddings.index_copy(0, index, heard[first : first + len(places)])
        return embeddings

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


def row_of(sequence: EngineSequence) -> Row:
    """The weights of a sequence's adapters by uid."""
    return {share.adapter.uid: share.weight for share in sequence.request.shares}
