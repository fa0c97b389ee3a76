"""Steps of the fused decoder made by hand, each row's logits beside those of plain transformers + PEFT."""

import itertools
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from app.engine.config import EngineConfig
from app.engine.cuda.decoder import CudaDecoder
from app.engine.detokenizer import Detokenizer
from app.engine.kv_cache.paged_cache import PagedCache
from app.engine.lora.layers import prepare
from app.engine.lora.peft_fallback import shell_of
from app.engine.lora.slots import SlotTable
from app.engine.memory import MemoryPlan
from app.engine.request import LoRAWeight, Request
from app.engine.scheduler import Chunk
from app.engine.sequence import Sequence
from app.models.loading import LoadedModel
from app.registry.adapter_files.weights import read_weights
from tests.support import LM, dequantized, greedy, make_adapter

# Names of the adapters that `make_all` makes, each with the modules it is on.
PROJECTIONS = {
    **{name: f"{LM}{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")},
    "head": "lm_head",
    "all": LM + r"\w+_proj",
}
RANKS = (4, 8, 12, 16, 3)
MIX = (("all", 0.5), ("head", 0.7), ("down", -0.6))
Mix = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class _Adapter:
    """As much of a registry's adapter as a step reads."""

    uid: str


@dataclass
class Row:
    """One sequence: token ids, adapters with weights, and how much of it is computed."""

    ids: list[int]
    mix: Mix = ()
    sequence: Sequence = field(init=False)

    def __post_init__(self) -> None:
        lora_weights = tuple(LoRAWeight(_Adapter(name), weight) for name, weight in self.mix)  # type: ignore[arg-type]
        request = Request(tuple(self.ids), (), lora_weights, greedy(8), lambda event: None)
        self.sequence = Sequence(request, Detokenizer(lambda ids: "", ()), 0.0)


def make_all(loaded: LoadedModel, root: Path, std: float = 0.2) -> dict[str, Path]:
    """One adapter for each projection, of several ranks, and one on all of them."""
    return {
        name: make_adapter(loaded, root / name, seed, r=RANKS[seed % len(RANKS)], target_modules=pattern, std=std)
        for seed, (name, pattern) in enumerate(PROJECTIONS.items())
    }


class Passes:
    """A fused decoder with all adapters resident, and the reference for what it gives."""

    def __init__(self, loaded: LoadedModel, folders: dict[str, Path], rows: int = 128) -> None:
        limits = EngineConfig(32, 96, 1, rows, 256, 1, 1, decoder="fused")
        self._reference = dequantized(loaded).model.float()
        self._folders, self._models = folders, dict[Mix, Any]()
        self.vocabulary = loaded.model.lm_head.out_features
        device, page = loaded.device, 64 if loaded.device.type == "cuda" else 16
        cache = PagedCache(loaded.model.config.get_text_config(), 256, page, device, loaded.dtype)
        self.decoder = CudaDecoder(loaded.model, cache, limits, MemoryPlan(256, page, 1, 1))
        self._pages, self._page = list(range(256)), page
        self.table = SlotTable(32)
        if device.type == "cuda":
            self.decoder.stacks.reserve(192)
            self.decoder._graphs._at_once = True
        for name, folder in folders.items():
            host = prepare(read_weights(folder), loaded.dtype)
            slot, _ = self.table.place(name, host.rank) or (None, None)
            assert slot is not None
            for _ in self.decoder.load(slot, host, self.table.capacity):
                pass

    @torch.inference_mode()
    def step(self, *work: tuple[Row, int]) -> torch.Tensor:
        """Logits [rows that end, vocabulary] in float32 after so many more tokens of each row, in one pass."""
        chunks = []
        for row, tokens in work:
            sequence = row.sequence
            sequence.tokens = list(row.ids)
            final = sequence.computed + tokens == len(row.ids)
            while len(sequence.blocks) * self._page < len(row.ids):
                sequence.blocks.append(self._pages.pop())
            chunks.append(Chunk(sequence, sequence.computed, tokens, final))
        logits = self.decoder.step(chunks, [None] * len(chunks)).float().clone()
        for row, tokens in work:
            row.sequence.computed += tokens
        return logits

    def prefill(self, rows: Many[Row]) -> torch.Tensor:
        return self.step(*((row, len(row.ids)) for row in rows))

    def decode(self, rows: Many[Row], token: int) -> torch.Tensor:
        """One more ``token`` for each row, which counts as the answer's."""
        for row in rows:
            row.ids.append(token)
        return self.step(*((row, 1) for row in rows))

    def end(self, rows: Many[Row]) -> None:
        for row in rows:
            self.decoder.free(row.sequence)
            self._pages += row.sequence.blocks

    @torch.inference_mode()
    def expected(self, row: Row) -> torch.Tensor:
        """Last logits [vocabulary] of plain transformers + PEFT in float32."""
        ids = torch.tensor([row.ids], device=self._reference.device)
        logits: torch.Tensor = self._model(row.mix)(input_ids=ids).logits[0, -1]
        return logits.float()

    def errors(self, rows: Many[Row], logits: torch.Tensor) -> dict[str, tuple[float, float]]:
        """For each mix the largest relative error of its rows, and the effect of its adapters on the same rows."""
        found: dict[str, tuple[float, float]] = {}
        for row, mine in zip(rows, logits, strict=True):
            wanted, base = self.expected(row), self.expected(Row(row.ids))
            name = "+".join(name for name, _ in row.mix) or "base"
            error = float((mine - wanted).norm() / wanted.norm()) if mine.isfinite().all() else float("inf")
            effect = float((base - wanted).norm() / wanted.norm())
            before = found.get(name, (0.0, 0.0))
            found[name] = max(before[0], error), max(before[1], effect)
        return found

    def _model(self, mix: Mix) -> Any:
        """PEFT over modules of its own that share the reference's weights; a mix by `add_weighted_adapter`."""
        if not mix:
            return self._reference
        if mix not in self._models:
            first, *others = mix
            model: Any = PeftModel.from_pretrained(
                shell_of(self._reference), str(self._folders[first[0]]), first[0], autocast_adapter_dtype=False
            )
            for name, _ in others:
                model.load_adapter(str(self._folders[name]), name, autocast_adapter_dtype=False)
            if others or first[1] != 1.0:
                names, weights = zip(*mix, strict=True)
                model.add_weighted_adapter(list(names), list(weights), "mixed", combination_type="cat")
                model.set_adapter("mixed", inference_mode=True)
            self._models[mix] = model.float().eval()
        return self._models[mix]


def draw_rows(count: int, tokens: int, vocabulary: int, mixes: Many[Mix], seed: int = 0) -> list[Row]:
    """``count`` rows of together ``tokens`` tokens, adapters by turns."""
    drawn = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocabulary - 8, (tokens,), generator=drawn).tolist()
    ends = [tokens * place // count for place in range(count + 1)]
    return [Row(ids[low:high], mixes[i % len(mixes)]) for i, (low, high) in enumerate(itertools.pairwise(ends))]
