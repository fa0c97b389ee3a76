"""Steps on CUDA: the batch's state lies on the device by seat, and each shape of a step is one CUDA graph.

A step's inputs travel in one pinned buffer. Tokens stay on the device, so the next step can be queued
before the host has read the last one's; the host only follows.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from app.engine.decoder import Embedder, row_of
from app.engine.fused import TILE, FusedModel, Rows
from app.engine.kv_cache import PagedCache
from app.engine.limits import EngineLimits
from app.engine.lora import HostAdapter
from app.engine.products import likeliest
from app.engine.request import Sampling
from app.engine.request import Sequence as EngineSequence
from app.engine.sampler import choose
from app.engine.scheduler import Chunk
from app.engine.slots import Slot
from app.engine.stacks import LoraStacks
from app.engine.staging import pinned, send

log = logging.getLogger(__name__)
_BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
_FINE, _ROW_STEP = 64, 128  # packed prompt tokens are padded up to a multiple, the finer up to `_SHORT`
_SHORT = 512
_SPARE_TILES = 16  # beyond one for every TILE rows: chunks that end in a part of a tile


class FusedDecoder:
    """Decode and prefill through `FusedModel`, captured by shape. Works without CUDA too, uncaptured (tests)."""

    def __init__(self, model: Any, cache: PagedCache, limits: EngineLimits) -> None:
        device, dtype = cache.keys.device, cache.keys.dtype
        self.overlaps = self._captures = device.type == "cuda"
        self._device = device
        max_batch = limits.max_batch
        self._batches = [size for size in _BATCHES if size < max_batch] + [max_batch]
        self._most_rows = -(-max(limits.step_tokens, max_batch) // _ROW_STEP) * _ROW_STEP
        seats = max_batch + 1
        self.stacks = LoraStacks(model, seats, device, dtype)
        self._model = FusedModel(
            model, cache, self.stacks, self._most_rows, max_batch, limits.max_context, limits.weights == "float8"
        )
        self._embeddings: torch.Tensor = model.model.language_model.embed_tokens.weight
        pages = -(-limits.max_context // cache.page_size)
        self._tables = torch.zeros(seats, pages, device=device, dtype=torch.int32)
        self._pages = np.zeros((seats, pages), dtype=np.int32)  # what `_tables` is to hold
        self._held = [0] * seats
        self._last = torch.zeros(seats, device=device, dtype=torch.int64)
        tiles = self._most_rows // TILE + max(max_batch, _SPARE_TILES)
        self._inputs = torch.zeros(3 * self._most_rows + 4 * tiles, device=device, dtype=torch.int32)
        self._free = list(range(seats - 1, -1, -1))
        self._seats: dict[str, int] = {}
        self._graphs: dict[tuple[str, int, bool], torch.cuda.CUDAGraph] = {}
        self._pool: Any = torch.cuda.graph_pool_handle() if self._captures else None

    def warm_up(self) -> None:
        """Compile every kernel and capture every shape, for the base and for adapters on q_proj and v_proj."""
        for name in ("self_attn.q_proj", "self_attn.v_proj"):
            self.stacks.touch(name)
        for lora in (False, True):
            for size in reversed(self._batches):
                self._blank(size)
                self._run_decode(size, lora)
            for rows in sorted({_padded(n) for n in range(1, self._most_rows + 1)}, reverse=True):
                self._blank(rows)
                self._run_prefill(rows, self._tile_room(rows), lora)
        choose(self._model.logits[:1], [Sampling()], [[]], [None], [0], self.likeliest)

    def load(self, slot: Slot, adapter: HostAdapter, capacity: int) -> None:
        with self._graphs_in_step():
            self.stacks.load(slot, adapter, capacity)

    def clear(self, slot: Slot) -> None:
        with self._graphs_in_step():
            self.stacks.clear(slot)

    def forget(self, sequence: EngineSequence) -> None:
        seat = self._seats.pop(sequence.request.id, None)
        if seat is not None:
            self._free.append(seat)

    def keep(self, sequences: Sequence[EngineSequence], tokens: torch.Tensor) -> None:
        seated = [row for row, sequence in enumerate(sequences) if sequence.request.id in self._seats]
        if not seated:  # all are served alone
            return
        if len(seated) < len(sequences):
            tokens = tokens[send(seated, self._device)]
        seats = send([self._seats[sequences[row].request.id] for row in seated], self._device)
        # a row that was not finite has no token; what a step in between computes for it is never read
        self._last[seats] = tokens.clamp(min=0)

    def likeliest(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return likeliest(logits)

    def step(self, chunks: Sequence[Chunk], audio: Embedder) -> torch.Tensor:
        decoding = [chunk for chunk in chunks if chunk.decodes]
        prompts = [chunk for chunk in chunks if not chunk.decodes]
        for chunk in chunks:
            self._settle(chunk)
        self._tables.copy_(pinned(self._pages, self._device), non_blocking=True)
        logits = []
        if decoding:
            logits.append(self._decode(decoding))
        if prompts:
            logits.append(self._prefill(prompts, audio))
        order = [id(c) for c in decoding] + [id(c) for c in prompts if c.final]
        wanted = [order.index(id(c)) for c in chunks if c.final]
        joined = logits[0] if len(logits) == 1 else torch.cat(logits)
        if wanted == list(range(len(wanted))):
            return joined
        return joined[send(wanted, self._device)]

    @contextmanager
    def _graphs_in_step(self) -> Iterator[None]:
        """Graphs with adapters point into the stacks: forget them when those are replaced."""
        before = self.stacks.layout
        try:
            yield
        finally:
            if self.stacks.layout != before:
                self._graphs = {key: graph for key, graph in self._graphs.items() if not key[-1]}

    def _blank(self, rows: int) -> None:
        """Inputs of padding alone."""
        self._inputs.zero_()
        self._inputs[2 * rows : 3 * rows] = -1

    def _settle(self, chunk: Chunk) -> None:
        """A seat for the chunk's sequence, its adapters and pages told to the device."""
        sequence = chunk.sequence
        seat = self._seats.get(sequence.request.id)
        if seat is None:
            seat = self._free[-1]
            self.stacks.seat(seat, row_of(sequence))
            self._held[seat] = 0
            self._seats[sequence.request.id] = self._free.pop()
        pages = sequence.pages
        if not chunk.decodes or self._held[seat] != len(pages):
            self._pages[seat, : len(pages)] = pages
            self._held[seat] = len(pages)

    def _decode(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """One token of each chunk: logits [chunks, vocabulary], overwritten by the next decode step."""
        count = len(chunks)
        size = next(size for size in self._batches if size >= count)
        inputs = np.zeros((3, size), dtype=np.int32)
        inputs[2] = -1
        for column, chunk in enumerate(chunks):
            seat = self._seats[chunk.sequence.request.id]
            (token,) = chunk.ids or [-1]  # still under way: it is in `_last`
            inputs[:, column] = token, seat, chunk.start
        self._inputs[: 3 * size].copy_(pinned(inputs.reshape(-1), self._device), non_blocking=True)
        self._run_decode(size, any(chunk.sequence.request.shares for chunk in chunks))
        return self._model.logits[:count]

    def _run_decode(self, size: int, lora: bool) -> None:
        ids, seats, positions = self._inputs[: 3 * size].view(3, size)

        def run() -> None:
            tokens = torch.where(ids < 0, self._last[seats.long()], ids.long())
            torch.index_select(self._embeddings, 0, tokens, out=self._model.x[:size])
            self._model.run(Rows(seats, positions, None), self._tables, lora)
            self._model.head(self._model.h[:size], seats, self._model.logits[:size], lora)

        self._replay(("decode", size, lora), run)

    def _prefill(self, chunks: Sequence[Chunk], audio: Embedder) -> torch.Tensor:
        """Packed prompt chunks: logits [final chunks, vocabulary]."""
        count = sum(chunk.tokens for chunk in chunks)
        rows = _padded(count)
        inputs = np.zeros((3, rows), dtype=np.int32)
        inputs[2] = -1
        tiles: list[tuple[int, int, int, int]] = []
        lasts: list[int] = []
        places: list[int] = []
        sounds: list[torch.Tensor] = []
        first = 0
        for chunk in chunks:
            seat, end = self._seats[chunk.sequence.request.id], first + chunk.tokens
            inputs[0, first:end] = chunk.ids
            inputs[1, first:end] = seat
            inputs[2, first:end] = np.arange(chunk.start, chunk.start + chunk.tokens)
            for at in range(0, chunk.tokens, TILE):
                tiles.append((first + at, min(TILE, chunk.tokens - at), chunk.start + at, seat))
            if heard := audio(chunk):
                places.extend(first + place for place in heard[0])
                sounds.append(heard[1])
            first = end
            if chunk.final:
                lasts.append(end - 1)
        room = max(self._tile_room(rows), len(tiles))
        flat = np.zeros(3 * rows + 4 * room, dtype=np.int32)
        flat[: 3 * rows] = inputs.reshape(-1)
        flat[3 * rows : 3 * rows + 4 * len(tiles)] = np.array(tiles, dtype=np.int32).reshape(-1)
        self._inputs[: len(flat)].copy_(pinned(flat, self._device), non_blocking=True)
        x = self._model.x[:rows]
        torch.index_select(self._embeddings, 0, self._inputs[:rows], out=x)
        if places:
            x.index_copy_(0, send(places, self._device), torch.cat(sounds))
        lora = any(chunk.sequence.request.shares for chunk in chunks)
        self._run_prefill(rows, room, lora)
        if not lasts:
            return self._model.logits[:0]
        index = send(lasts, self._device)
        hidden, seats = self._model.h[index], self._inputs[rows : 2 * rows][index]
        return self._model.head(hidden, seats, hidden.new_empty(len(lasts), self._model.logits.shape[1]), lora)

    def _run_prefill(self, rows: int, room: int, lora: bool) -> None:
        _, seats, positions = self._inputs[: 3 * rows].view(3, rows)
        tiles = self._inputs[3 * rows : 3 * rows + 4 * room].view(room, 4)
        captured = room == self._tile_room(rows)
        self._replay(
            ("prefill", rows, lora) if captured else None,
            lambda: self._model.run(Rows(seats, positions, tiles), self._tables, lora),
        )

    def _tile_room(self, rows: int) -> int:
        return rows // TILE + _SPARE_TILES

    def _replay(self, key: tuple[str, int, bool] | None, run: Callable[[], object]) -> None:
        """Run as a graph; the first time as it is, and captured afterwards for the next."""
        if key is not None and key in self._graphs:
            self._graphs[key].replay()
            return
        run()
        if not self._captures or key is None:
            return
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                run()
            self._graphs[key] = graph
        except torch.OutOfMemoryError:  # slower without, but the step itself is done
            log.warning("no memory to capture %s; it runs uncaptured", key)


def _padded(rows: int) -> int:
    """The captured number of rows that holds so many."""
    step = _FINE if rows <= _SHORT else _ROW_STEP
    return -(-rows // step) * step
