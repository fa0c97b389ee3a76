"""Adapters that cannot join a batch (DoRA, IA3 …), served through plain PEFT, one sequence at a time.

PEFT wraps a copy of the base model's modules that shares its weights, so the batched model stays as it is.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import nn

from app.engine.kv_cache.paged_cache import PagedCache
from app.engine.sequence import Sequence
from app.errors import BadRequest
from app.models.family import family_of
from app.models.layout import LM_HEAD
from app.quantization.linear import QuantizedLinear
from app.registry.adapter import Adapter
from app.registry.adapter_files.plain_peft import PlainAdapter, read_plain, wrap
from app.registry.adapter_files.weights import WEIGHTS

Reading = Callable[[Adapter, Callable[[Path], PlainAdapter]], "Future[PlainAdapter]"]
_KEPT = 4


def shell_of(model: Any, own: Collection[str] = ()) -> Any:
    """A copy of the model's modules and configuration that shares all tensors but the parameters ``own``.

    A layer whose weight is its own lies dequantised in the copy.
    """
    parameters = [parameter for path, parameter in model.named_parameters() if path not in own]
    shared: dict[int, Any] = {id(tensor): tensor for tensor in [*parameters, *model.buffers()]}
    for path, module in model.named_modules():
        if isinstance(module, QuantizedLinear) and f"{path}.weight" in own:
            shared[id(module)] = module.dequantized()
    return copy.deepcopy(model, shared)


def _of_last_position(model: Any) -> Any:
    """Have a PEFT model compute the logits of the last position alone: those of a prompt would take hundreds of MB."""

    def last(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (arguments[0][:, -1:], *arguments[1:])

    model.get_base_model().get_submodule(LM_HEAD).register_forward_pre_hook(last)
    return model


class PeftFallback:
    """Steps one sequence through `PeftModel`; the last few adapters stay loaded. Called on the engine's thread only."""

    def __init__(self, model: Any, most_bytes: int | None = None) -> None:
        """``most_bytes``: of the adapters on the device; None without a limit."""
        self._most_bytes = most_bytes
        self._itemsize: int = next(model.parameters()).dtype.itemsize
        self._bytes: dict[str, int] = {}  # by uid: of each adapter that is loaded
        self._shell = shell_of(model)
        self._owners = {path for path, _ in self._shell.named_modules() if path}
        self._reading: dict[str, Future[PlainAdapter]] = {}  # by uid
        self._models: OrderedDict[str, Any] = OrderedDict()  # by uid
        self._users: dict[str, str] = {}  # by request: the uid of the adapter that it uses

    def acquire(self, sequence: Sequence, read: Reading) -> bool:
        """Hold the sequence's adapter until `free`; False while it is being read, or others use all places.

        ``read`` reads it on another thread. Raises the error of that, and BadRequest for adapters that PEFT refuses.
        """
        adapter = sequence.request.lora_weights[0].adapter
        uid = adapter.uid
        if uid not in self._models:
            if uid not in self._users.values() and len(set(self._users.values())) >= _KEPT:
                return False
            if uid not in self._reading:
                self._reading[uid] = read(adapter, lambda folder: read_plain(folder, WEIGHTS, self._owners))
            if not self._reading[uid].done():
                return False
            reading = self._reading.pop(uid)
            plain = reading.result()
            if not self._make_room(adapter, plain):
                self._reading[uid] = reading
                return False
            # PEFT writes trained biases in place
            self._models[uid] = _of_last_position(wrap(shell_of(self._shell, own=plain.paths), plain))
            self._bytes[uid] = self._size(plain)
        self._models.move_to_end(uid)
        self._users[sequence.request.id] = uid
        for known in self._idle()[: max(0, len(self._models) - _KEPT)]:
            self._evict(known)
        return True

    def _make_room(self, adapter: Adapter, plain: PlainAdapter) -> bool:
        """Evict idle adapters until it fits; False while others are in use. Raises BadRequest where it never fits."""
        size, most = self._size(plain), self._most_bytes
        if most is None:
            return True
        if size > most:
            raise BadRequest(
                f"The adapter {adapter.name!r} takes {size / 1e6:.0f} MB, and this server's memory has room for "
                f"{most / 1e6:.0f} MB of adapters that cannot join a batch. A card with more memory, or "
                "OVERTONE_WEIGHTS of fewer bits, has room for more."
            )
        for known in self._idle():
            if sum(self._bytes.values()) + size > most:
                self._evict(known)
        return sum(self._bytes.values()) + size <= most

    def _size(self, plain: PlainAdapter) -> int:
        """Bytes of an adapter on the device."""
        return self._itemsize * sum(tensor.numel() for tensor in plain.tensors.values())

    def _idle(self) -> list[str]:
        """Loaded adapters that no request uses, those first that were used longest ago."""
        return [known for known in self._models if known not in self._users.values()]

    def _evict(self, uid: str) -> None:
        del self._models[uid], self._bytes[uid]

    def step(self, sequence: Sequence, tokens: int, cache: PagedCache) -> torch.Tensor:
        """Logits [vocabulary] after the sequence's next ``tokens`` tokens, whose keys and values go to its blocks."""
        request = sequence.request
        model = self._models[request.lora_weights[0].adapter.uid]
        inputs: dict[str, Any] = {}
        if sequence.computed == 0 and request.clips:
            inputs = self._features(sequence)
        device = self._shell.device
        pending = torch.tensor([sequence.tokens[sequence.computed : sequence.computed + tokens]], device=device)
        output = model(
            input_ids=pending,
            attention_mask=torch.ones(1, sequence.computed + tokens, dtype=torch.long, device=device),
            past_key_values=cache.of_one(sequence.blocks, sequence.computed, tokens),
            use_cache=True,
            **inputs,
        )
        logits: torch.Tensor = output.logits[0, -1]
        return logits

    def free(self, sequence: Sequence) -> None:
        """Let the adapter of a sequence be evicted."""
        request = sequence.request
        if self._users.pop(request.id, None) is None and sequence.alone:
            self._reading.pop(
                request.lora_weights[0].adapter.uid, None
            )  # another sequence that waits for it reads it anew

    def _features(self, sequence: Sequence) -> dict[str, torch.Tensor]:
        clips, device = sequence.request.clips, self._shell.device
        mel = torch.stack([clip.mel for clip in clips]).to(device)
        frames = torch.tensor([clip.frames for clip in clips])
        mask = (torch.arange(mel.shape[-1]) < frames[:, None]).long().to(device)
        return family_of(self._shell.config).inputs(mel, mask)
