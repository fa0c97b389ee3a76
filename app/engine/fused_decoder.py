"""Steps on CUDA: the batch's state lies on the device by seat, and each shape of a step is one CUDA graph.

A step's inputs travel in one pinned buffer. Tokens stay on the device, so the next step can be queued
before the host has read the last one's; the host only follows.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from app.engine.decoder import Embedder, Heard, row_of
from app.engine.fused import TILE, FusedModel, Rows
from app.engine.graph_runner import GraphRunner
from app.engine.kv_cache import PagedCache
from app.engine.limits import EngineLimits
from app.engine.lora import HostAdapter
from app.engine.memory import MARGIN
from app.engine.products import likeliest
from app.engine.request import Sampling
from app.engine.request import Sequence as EngineSequence
from app.engine.sampler import choose
from app.engine.scheduler import Chunk
from app.engine.slots import COLUMNS, Slot, planned_columns
from app.engine.stacks import LAYERS, QUERY_VALUE, LoraStacks, Reach
from app.engine.staging import pinned, send

log = logging.getLogger(__name__)
_BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
_MIXED = (4, 16, 64)  # sizes of a batch that decodes beside prompts
# Rows that a packed pass is padded up to: few, and those at which cuBLAS is fast on an H200 (832 take longer than 896).
_ROWS = (64, 128, 176, 208, 256, 304, 368, 432, 512, 560, 624, 656, 720, 768, 816, 864, 944, 1024)
_ROW_STEP = 128  # beyond them
_TOLD_EVERY = 16  # shapes of the warm-up
_SPARE_TILES = 16  # beyond one for every TILE rows: chunks that end in a part of a tile


class FusedDecoder:
    """Decode and prefill through `FusedModel`, captured by shape. Works without CUDA too, uncaptured (tests)."""

    def __init__(self, model: Any, cache: PagedCache, limits: EngineLimits) -> None:
        device, dtype = cache.keys.device, cache.keys.dtype
        self.overlaps = device.type == "cuda"
        self._device = device
        max_batch = limits.max_batch
        self._batches, self._mixed = ([n for n in sizes if n < max_batch] + [max_batch] for sizes in (_BATCHES, _MIXED))
        self._most_rows = _padded(max(limits.step_tokens, max_batch))
        seats = max_batch + 2  # one more for a sequence that ends while its last step is under way, one for padding
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
        self._inputs = torch.zeros(3 * self._most_rows + 4 * tiles + max_batch, device=device, dtype=torch.int32)
        self._free = list(range(self.stacks.nobody - 1, -1, -1))
        self._seats: dict[str, int] = {}
        # by rows of a packed pass (0: a decode step), how many decode, and how far their adapters reach
        self._graphs: GraphRunner[tuple[int, int, Reach | None]] = GraphRunner(device.type == "cuda")
        self._most_columns = planned_columns(limits.max_resident)

    def warm_up(self) -> None:
        """Compile every kernel; capture every shape for the base and for adapters on q and v, and prepare the others.

        Those for adapters that reach further are captured while nobody asks, or when they are met.
        """
        self.stacks.reserve(self._affordable_columns())
        reaches = (None, Reach(COLUMNS, QUERY_VALUE), Reach(COLUMNS, LAYERS))
        shapes = self._shapes()
        for place, reach in enumerate(reaches):
            with self._graphs.at_once(capture=reach is not reaches[-1]):
                for done, (rows, decoding) in enumerate(shapes, place * len(shapes)):
                    if done % _TOLD_EVERY == 0:
                        log.info("compiling kernels and capturing graphs: %d of %d shapes", done, 3 * len(shapes))
                    self._blank(rows, decoding)
                    if rows:
                        self._run_packed(rows, decoding, self._tile_room(rows), reach)
                    else:
                        self._run_decode(decoding, reach)
        self._model.warm_up_head()
        choose(self._model.logits[:1], [Sampling()], [[]], [None], [0], self.likeliest)

    def catch_up(self) -> bool:
        """Capture a shape that has run without a graph; False when there is none."""
        return self._graphs.catch_up()

    @property
    def columns(self) -> int:
        return self.stacks.columns

    def load(self, slot: Slot, adapter: HostAdapter, capacity: int) -> Iterator[None]:
        with self._graphs_in_step():
            return self.stacks.load(slot, adapter, capacity)

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
        heard = [(chunk, audio(chunk)) for chunk in prompts]  # first: the device listens while the rest is laid out
        for chunk in chunks:
            self._settle(chunk)
        self._tables.copy_(pinned(self._pages, self._device), non_blocking=True)
        if prompts:
            return self._packed(chunks, decoding, heard)
        logits = self._decode(decoding)
        if all(chunk.final for chunk in chunks):
            return logits
        return logits[send([row for row, chunk in enumerate(chunks) if chunk.final], self._device)]

    @contextmanager
    def _graphs_in_step(self) -> Iterator[None]:
        """Graphs with adapters read the stacks: forget them when those are replaced."""
        before = self.stacks.generation
        try:
            yield
        finally:
            if self.stacks.generation != before:
                self._graphs.forget(lambda key: key[-1] is not None)

    def _affordable_columns(self) -> int:
        """What was planned, or less where the KV cache was given a size that leaves less."""
        if self._device.type != "cuda":
            return COLUMNS
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(self._device)[0] - MARGIN // 2
        affordable = free // self.stacks.column_bytes() // COLUMNS * COLUMNS
        return max(COLUMNS, min(self._most_columns, affordable))

    def _shapes(self) -> list[tuple[int, int]]:
        """Rows and decoding sequences of the graphs captured at the start, the largest first.

        Other mixtures are captured when they are met, and so are these for adapters that reach further.
        """
        decode = [(0, size) for size in reversed(self._batches)]
        packed = [(rows, 0) for rows in sorted({_padded(n) for n in range(1, self._most_rows + 1)}, reverse=True)]
        mixed = [(self._most_rows, size) for size in self._mixed] + [(_padded(1), self._mixed[0])]
        return [*decode, *mixed, *packed]

    def _blank(self, rows: int, decoding: int) -> None:
        """Inputs of padding alone."""
        each = rows or decoding
        self._inputs.zero_()
        self._inputs[each : 2 * each] = self.stacks.nobody
        self._inputs[2 * each : 3 * each + (decoding if rows else 0)] = -1

    def _padding(self, rows: int) -> npt.NDArray[np.int32]:
        """Token ids, seats and positions [3, rows] of padding."""
        inputs = np.zeros((3, rows), dtype=np.int32)
        inputs[1], inputs[2] = self.stacks.nobody, -1
        return inputs

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
        inputs = self._padding(size)
        for column, chunk in enumerate(chunks):
            seat = self._seats[chunk.sequence.request.id]
            (token,) = chunk.ids or [-1]  # still under way: it is in `_last`
            inputs[:, column] = token, seat, chunk.start
        self._inputs[: 3 * size].copy_(pinned(inputs.reshape(-1), self._device), non_blocking=True)
        self._run_decode(size, self._reach(chunks))
        return self._model.logits[:count]

    def _reach(self, chunks: Sequence[Chunk]) -> Reach | None:
        return self.stacks.reach(row_of(chunk.sequence) for chunk in chunks)

    def _run_decode(self, size: int, reach: Reach | None) -> None:
        ids, seats, positions = self._inputs[: 3 * size].view(3, size)

        def run() -> None:
            torch.index_select(self._embeddings, 0, self._tokens(ids, seats), out=self._model.x[:size])
            self._model.run(Rows(seats, positions, positions, None), self._tables, reach)
            self._model.head(self._model.h[:size], seats, self._model.logits[:size], reach)

        self._graphs.run((0, size, reach), run)

    def _tokens(self, ids: torch.Tensor, seats: torch.Tensor) -> torch.Tensor:
        """Token ids, those under way from where they lie."""
        return torch.where(ids < 0, self._last[seats.long()], ids.long())

    def _packed(
        self, chunks: Sequence[Chunk], decoding: Sequence[Chunk], heard: Sequence[tuple[Chunk, Heard | None]]
    ) -> torch.Tensor:
        """Prompt chunks, behind the tokens of those that decode: logits [final chunks, vocabulary] in their order."""
        rows = _padded(sum(chunk.tokens for chunk in chunks))
        size = next(size for size in (0, *self._mixed) if size >= len(decoding))
        inputs, decode_positions = self._padding(rows), np.full(size, -1, dtype=np.int32)
        firsts: dict[int, int] = {}
        tiles: list[tuple[int, int, int, int]] = []
        end = 0
        for chunk in [*decoding, *(chunk for chunk, _ in heard)]:
            seat, first, end = self._seats[chunk.sequence.request.id], end, end + chunk.tokens
            firsts[id(chunk)] = first
            inputs[0, first:end] = chunk.ids or [-1]  # still under way: it is in `_last`
            inputs[1, first:end] = seat
            inputs[2, first:end] = np.arange(chunk.start, chunk.start + chunk.tokens)
            for at in range(0, 0 if chunk.decodes else chunk.tokens, TILE):
                tiles.append((first + at, min(TILE, chunk.tokens - at), chunk.start + at, seat))
        decode_positions[: len(decoding)] = inputs[2, : len(decoding)]
        room = max(self._tile_room(rows), len(tiles))
        told = np.zeros((room, 4), dtype=np.int32)
        told[: len(tiles)] = tiles
        flat = np.concatenate([inputs.reshape(-1), decode_positions, told.reshape(-1)])
        self._inputs[: len(flat)].copy_(pinned(flat, self._device), non_blocking=True)
        ids, seats = self._inputs[: 2 * rows].view(2, rows)
        torch.index_select(self._embeddings, 0, self._tokens(ids, seats), out=self._model.x[:rows])
        for chunk, audio in heard:
            if audio:
                places = send([firsts[id(chunk)] + place for place in audio[0]], self._device)
                self._model.x.index_copy_(0, places, audio[1])
        reach = self._reach(chunks)
        self._run_packed(rows, size, room, reach)
        wanted = [firsts[id(chunk)] + chunk.tokens - 1 for chunk in chunks if chunk.final]
        if not wanted:
            return self._model.logits[:0]
        index = send(wanted, self._device)
        hidden = self._model.h[index]
        out = hidden.new_empty(len(wanted), self._model.logits.shape[1])
        return self._model.head(hidden, seats[index], out, reach)

    def _run_packed(self, rows: int, size: int, room: int, reach: Reach | None) -> None:
        """Rows of which at most the first ``size`` decode."""
        _, seats, positions = self._inputs[: 3 * rows].view(3, rows)
        decoding = self._inputs[3 * rows : 3 * rows + size] if size else None
        tiles = self._inputs[3 * rows + size : 3 * rows + size + 4 * room].view(room, 4)
        captured = room == self._tile_room(rows)
        self._graphs.run(
            (rows, size, reach) if captured else None,
            lambda: self._model.run(Rows(seats, positions, decoding, tiles), self._tables, reach),
        )

    def _tile_room(self, rows: int) -> int:
        return rows // TILE + _SPARE_TILES


def _padded(rows: int) -> int:
    """The captured number of rows that holds so many."""
    return next((size for size in _ROWS if size >= rows), -(-rows // _ROW_STEP) * _ROW_STEP)
