"""Steps on CUDA: the state of the batch is on the device, by batch index, and each shape of a step is one CUDA graph.

The inputs of a step are copied from one pinned buffer. Tokens stay on the device, so the next step can be queued
before the host has read those of the last one.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from app.engine.config import EngineConfig
from app.engine.cuda.graph_runner import GraphRunner
from app.engine.cuda.language_model import TILE, CudaLanguageModel, Rows
from app.engine.cuda.linear import finite_argmax
from app.engine.cuda.pinned import pinned, send, warm_up_pinned
from app.engine.decoder import AudioEmbeddings, weights_by_uid
from app.engine.kv_cache.paged_cache import PagedCache
from app.engine.lora.layers import HostAdapter
from app.engine.lora.slots import COLUMNS, Slot
from app.engine.lora.stacked_weights import LAYERS, QUERY_VALUE, Reach, StackedWeights
from app.engine.memory import MemoryPlan
from app.engine.sampler import choose
from app.engine.sampling_params import SamplingParams
from app.engine.scheduler import Chunk
from app.engine.sequence import Sequence as EngineSequence

log = logging.getLogger(__name__)
_BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
_MIXED = (4, 16, 64)  # decoding sequences of a step that also has prompts
# Rows that a packed pass is padded to: few, and those at which cuBLAS is fast on an H200 (832 take longer than 896).
_ROWS = (64, 128, 176, 208, 256, 304, 368, 432, 512, 560, 624, 656, 720, 768, 816, 864, 944, 1024)
_ROW_STEP = 128  # beyond the largest of them
_SHAPES_PER_LOG_LINE = 16
_SPARE_TILES = 16  # beyond one per TILE rows, for chunks that end within a tile


class CudaDecoder:
    """Decode and prefill through `CudaLanguageModel`, captured by shape. Works without CUDA too, uncaptured (tests)."""

    def __init__(self, model: Any, cache: PagedCache, limits: EngineConfig, memory: MemoryPlan) -> None:
        device, dtype = cache.keys.device, cache.keys.dtype
        self.overlaps = device.type == "cuda"
        self._device = device
        max_batch = limits.max_batch
        self._batches, self._mixed = ([n for n in sizes if n < max_batch] + [max_batch] for sizes in (_BATCHES, _MIXED))
        self._most_rows = _padded(max(limits.step_tokens, max_batch))
        size = max_batch + 2  # one more for a sequence that ends while its last step is in flight, and one for padding
        self.stacks = StackedWeights(model, size, device, dtype, memory.most_columns)
        self._model = CudaLanguageModel(model, cache, self.stacks, self._most_rows, max_batch, limits.max_context)
        self._embeddings: torch.Tensor = model.get_input_embeddings().weight
        blocks = -(-limits.max_context // cache.block_size)
        self._tables = torch.zeros(size, blocks, device=device, dtype=torch.int32)
        self._host_tables = np.zeros((size, blocks), dtype=np.int32)  # copied to `_tables` before each step
        self._held = [0] * size  # blocks in each row of `_host_tables`
        self._last = torch.zeros(size, device=device, dtype=torch.int64)
        tiles = self._most_rows // TILE + max(max_batch, _SPARE_TILES)
        self._inputs = torch.zeros(3 * self._most_rows + 4 * tiles + max_batch, device=device, dtype=torch.int32)
        self._free = list(range(self.stacks.padding_index - 1, -1, -1))
        self._batch_indices: dict[str, int] = {}
        # by rows of a packed pass (0: a decode step), how many decode, and how far their adapters reach
        self._graphs: GraphRunner[tuple[int, int, Reach | None]] = GraphRunner(
            device.type == "cuda", memory.graph_bytes
        )
        self._columns = memory.columns or COLUMNS

    def warm_up(self) -> None:
        """Compile every kernel; capture every shape for the base and for adapters on q and v, and prepare the others.

        Shapes with adapters that reach further are captured when the engine is idle, or when a step needs them. They
        run here once at each number of columns: cuBLAS loads its kernels when a product first needs them.
        """
        self.stacks.reserve(self._columns)
        reaches = [None, Reach(COLUMNS, QUERY_VALUE), *(Reach(columns, LAYERS) for columns in self._column_steps())]
        shapes = self._shapes()
        for place, reach in enumerate(reaches):
            with self._graphs.at_once(capture=place < 2):
                for done, (rows, decoding) in enumerate(shapes, place * len(shapes)):
                    if done % _SHAPES_PER_LOG_LINE == 0:
                        log.info(
                            "compiling kernels and capturing graphs: %d of %d shapes", done, len(reaches) * len(shapes)
                        )
                    self._blank(rows, decoding)
                    if rows:
                        self._run_packed(rows, decoding, self._padded_tiles(rows), reach)
                    else:
                        self._run_decode(decoding, reach)
        self._graphs.discard(lambda key: key[-1] is not None and key[-1].columns > COLUMNS)  # captured when needed
        self._model.warm_up_lm_head()
        for rows in {1, min(2, self._batches[-1])}:  # one row takes another kernel
            choose(
                self._model.logits[:rows],
                [SamplingParams()] * rows,
                [[]] * rows,
                [None] * rows,
                [0] * rows,
                self.finite_argmax,
            )
        warm_up_pinned(max(self._host_tables.nbytes, self._inputs.nbytes), self._device)

    def free_memory(self) -> None:
        """As `DeviceDecoder.free_memory`."""
        self._graphs.discard(lambda key: True)

    def capture_pending(self) -> bool:
        """As `DeviceDecoder.capture_pending`."""
        return self._graphs.capture_pending()

    @property
    def columns(self) -> int:
        """As `DeviceDecoder.columns`."""
        return self.stacks.columns

    def load(self, slot: Slot, adapter: HostAdapter, capacity: int) -> Iterator[None]:
        """As `DeviceDecoder.load`."""
        with self._current_graphs():
            return self.stacks.load(slot, adapter, capacity)

    def clear(self, slot: Slot) -> None:
        """As `DeviceDecoder.clear`."""
        with self._current_graphs():
            self.stacks.clear(slot)

    def free(self, sequence: EngineSequence) -> None:
        """As `DeviceDecoder.free`."""
        index = self._batch_indices.pop(sequence.request.id, None)
        if index is not None:
            self._free.append(index)

    def keep_tokens(self, sequences: Sequence[EngineSequence], tokens: torch.Tensor) -> None:
        """As `DeviceDecoder.keep_tokens`."""
        rows = [row for row, sequence in enumerate(sequences) if sequence.request.id in self._batch_indices]
        if not rows:  # all are served through plain PEFT
            return
        if len(rows) < len(sequences):
            tokens = tokens[send(rows, self._device)]
        indices = send([self._batch_indices[sequences[row].request.id] for row in rows], self._device)
        # a row that was not finite has no token; the result of a step in between is never read for it
        self._last[indices] = tokens.clamp(min=0)

    def finite_argmax(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `sampler.finite_argmax`, by a kernel."""
        return finite_argmax(logits)

    def step(self, chunks: Sequence[Chunk], audio: Sequence[AudioEmbeddings | None]) -> torch.Tensor:
        """As `Decoder.step`."""
        decoding = [chunk for chunk in chunks if chunk.decodes]
        prompts = [(chunk, one) for chunk, one in zip(chunks, audio, strict=True) if not chunk.decodes]
        for chunk in chunks:
            self._assign(chunk)
        self._tables.copy_(pinned(self._host_tables, self._device), non_blocking=True)
        if prompts:
            return self._packed(chunks, decoding, prompts)
        logits = self._decode(decoding)
        if all(chunk.final for chunk in chunks):
            return logits
        return logits[send([row for row, chunk in enumerate(chunks) if chunk.final], self._device)]

    @contextmanager
    def _current_graphs(self) -> Iterator[None]:
        """Discard the graphs with adapters when the block replaces the stacks that they read."""
        before = self.stacks.generation
        try:
            yield
        finally:
            if self.stacks.generation != before:
                self._graphs.discard(lambda key: key[-1] is not None)

    def _column_steps(self) -> list[int]:
        """Numbers of columns that a step can reach until the stacks grow."""
        steps = [COLUMNS]
        while steps[-1] < self.columns:
            steps.append(min(2 * steps[-1], self.columns))
        return steps

    def _shapes(self) -> list[tuple[int, int]]:
        """Rows and decoding sequences of the graphs captured at the start, the largest first.

        Other mixtures, and these with adapters that reach further, are captured when a step needs them.
        """
        decode = [(0, size) for size in reversed(self._batches)]
        packed = [(rows, 0) for rows in sorted({_padded(n) for n in range(1, self._most_rows + 1)}, reverse=True)]
        mixed = [(self._most_rows, size) for size in self._mixed] + [(_padded(1), self._mixed[0])]
        return [*decode, *mixed, *packed]

    def _blank(self, rows: int, decoding: int) -> None:
        """Fill the inputs with padding."""
        each = rows or decoding
        self._inputs.zero_()
        self._inputs[each : 2 * each] = self.stacks.padding_index
        self._inputs[2 * each : 3 * each + (decoding if rows else 0)] = -1

    def _padding(self, rows: int) -> npt.NDArray[np.int32]:
        """Token ids, batch indices and positions [3, rows] of padding."""
        inputs = np.zeros((3, rows), dtype=np.int32)
        inputs[1], inputs[2] = self.stacks.padding_index, -1
        return inputs

    def _assign(self, chunk: Chunk) -> None:
        """Give the chunk's sequence a batch index, and write its adapters and blocks to the device's tables."""
        sequence = chunk.sequence
        index = self._batch_indices.get(sequence.request.id)
        if index is None:
            index = self._free[-1]
            self.stacks.assign(index, weights_by_uid(sequence))
            self._held[index] = 0
            self._batch_indices[sequence.request.id] = self._free.pop()
        blocks = sequence.blocks
        if not chunk.decodes or self._held[index] != len(blocks):
            self._host_tables[index, : len(blocks)] = blocks
            self._held[index] = len(blocks)

    def _decode(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """One token of each chunk: logits [chunks, vocabulary], overwritten by the next decode step."""
        count = len(chunks)
        size = next(size for size in self._batches if size >= count)
        inputs = self._padding(size)
        for column, chunk in enumerate(chunks):
            (token,) = chunk.ids or [-1]  # in flight: the token is in `_last`
            inputs[:, column] = token, self._batch_indices[chunk.sequence.request.id], chunk.start
        self._inputs[: 3 * size].copy_(pinned(inputs.reshape(-1), self._device), non_blocking=True)
        self._run_decode(size, self._reach(chunks))
        return self._model.logits[:count]

    def _reach(self, chunks: Sequence[Chunk]) -> Reach | None:
        return self.stacks.reach(weights_by_uid(chunk.sequence) for chunk in chunks)

    def _run_decode(self, size: int, reach: Reach | None) -> None:
        ids, indices, positions = self._inputs[: 3 * size].view(3, size)

        def run() -> None:
            torch.index_select(self._embeddings, 0, self._tokens(ids, indices), out=self._model.x[:size])
            self._model.run(Rows(indices, positions, positions, None), self._tables, reach)
            self._model.lm_head(self._model.h[:size], indices, self._model.logits[:size], reach)

        self._graphs.run((0, size, reach), run)

    def _tokens(self, ids: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Token ids, those in flight (-1) from `_last`."""
        return torch.where(ids < 0, self._last[indices.long()], ids.long())

    def _packed(
        self,
        chunks: Sequence[Chunk],
        decoding: Sequence[Chunk],
        prompts: Sequence[tuple[Chunk, AudioEmbeddings | None]],
    ) -> torch.Tensor:
        """Decoded tokens, then prompt chunks, in one pass: logits [final chunks, vocabulary] in the chunks' order."""
        rows = _padded(sum(chunk.tokens for chunk in chunks))
        size = next(size for size in (0, *self._mixed) if size >= len(decoding))
        inputs, decode_positions = self._padding(rows), np.full(size, -1, dtype=np.int32)
        firsts: dict[int, int] = {}
        tiles: list[tuple[int, int, int, int]] = []
        end = 0
        for chunk in [*decoding, *(chunk for chunk, _ in prompts)]:
            index, first, end = self._batch_indices[chunk.sequence.request.id], end, end + chunk.tokens
            firsts[id(chunk)] = first
            inputs[0, first:end] = chunk.ids or [-1]  # in flight: the token is in `_last`
            inputs[1, first:end] = index
            inputs[2, first:end] = np.arange(chunk.start, chunk.start + chunk.tokens)
            for at in range(0, 0 if chunk.decodes else chunk.tokens, TILE):
                tiles.append((first + at, min(TILE, chunk.tokens - at), chunk.start + at, index))
        decode_positions[: len(decoding)] = inputs[2, : len(decoding)]
        padded_tiles = np.zeros((max(self._padded_tiles(rows), len(tiles)), 4), dtype=np.int32)
        padded_tiles[: len(tiles)] = tiles
        flat = np.concatenate([inputs.reshape(-1), decode_positions, padded_tiles.reshape(-1)])
        self._inputs[: len(flat)].copy_(pinned(flat, self._device), non_blocking=True)
        ids, indices = self._inputs[: 2 * rows].view(2, rows)
        torch.index_select(self._embeddings, 0, self._tokens(ids, indices), out=self._model.x[:rows])
        for chunk, audio in prompts:
            if audio:
                positions = send([firsts[id(chunk)] + position for position in audio.positions], self._device)
                self._model.x.index_copy_(0, positions, audio.embeddings)
        reach = self._reach(chunks)
        self._run_packed(rows, size, len(padded_tiles), reach)
        wanted = [firsts[id(chunk)] + chunk.tokens - 1 for chunk in chunks if chunk.final]
        if not wanted:
            return self._model.logits[:0]
        last = send(wanted, self._device)
        hidden = self._model.h[last]
        out = hidden.new_empty(len(wanted), self._model.logits.shape[1])
        return self._model.lm_head(hidden, indices[last], out, reach)

    def _run_packed(self, rows: int, size: int, padded_tiles: int, reach: Reach | None) -> None:
        """Run a packed pass of ``rows`` rows, of which at most the first ``size`` decode."""
        _, indices, positions = self._inputs[: 3 * rows].view(3, rows)
        decoding = self._inputs[3 * rows : 3 * rows + size] if size else None
        tiles = self._inputs[3 * rows + size : 3 * rows + size + 4 * padded_tiles].view(-1, 4)
        captured = padded_tiles == self._padded_tiles(rows)
        self._graphs.run(
            (rows, size, reach) if captured else None,
            lambda: self._model.run(Rows(indices, positions, decoding, tiles), self._tables, reach),
        )

    def _padded_tiles(self, rows: int) -> int:
        return rows // TILE + _SPARE_TILES


def _padded(rows: int) -> int:
    """The number of rows that ``rows`` are padded to."""
    return next((size for size in _ROWS if size >= rows), -(-rows // _ROW_STEP) * _ROW_STEP)
