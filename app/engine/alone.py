"""Adapters that no batch can hold (DoRA, IA3 …), served through plain PEFT, one sequence at a time.

Each gets a shell of the base model: its modules again, its weights shared, so PEFT may wrap it as it
likes while the batched model stays untouched.
"""

import copy
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

import torch
from transformers import DynamicCache

from app.engine.request import Sequence
from app.registry.plain import read_plain, wrap
from app.registry.registry import Adapter, Registry
from app.registry.weights import WEIGHTS

_KEPT = 4


def shell_of(model: Any, own: Collection[str] = ()) -> Any:
    """The model's modules and configuration copied, its tensors shared, but for the parameters ``own``."""
    parameters = [parameter for path, parameter in model.named_parameters() if path not in own]
    shared = {id(tensor): tensor for tensor in [*parameters, *model.buffers()]}
    return copy.deepcopy(model, shared)


class AlonePath:
    """Steps one sequence through `PeftModel`; the last few adapters stay loaded."""

    def __init__(self, model: Any, registry: Registry) -> None:
        self._shell = shell_of(model)
        self._registry = registry
        self._models: OrderedDict[str, Any] = OrderedDict()
        self._caches: dict[str, DynamicCache] = {}

    def step(self, sequence: Sequence, tokens: int) -> torch.Tensor:
        """Logits [vocabulary] after the sequence's pending tokens."""
        model = self._model(sequence.request.shares[0].adapter)
        request = sequence.request
        inputs: dict[str, Any] = {}
        if sequence.computed == 0:
            self._caches[request.id] = DynamicCache(config=self._shell.config.get_text_config())
            if request.clips:
                inputs = self._features(sequence)
        extra = self._caches[request.id].get_seq_length() - sequence.computed
        if extra > 0:  # the step is repeated: it must find what it found the first time
            self._caches[request.id].crop(-extra)
        device = self._shell.device
        pending = torch.tensor([sequence.tokens[sequence.computed : sequence.computed + tokens]], device=device)
        output = model(
            input_ids=pending,
            attention_mask=torch.ones(1, sequence.computed + tokens, dtype=torch.long, device=device),
            past_key_values=self._caches[request.id],
            use_cache=True,
            **inputs,
        )
        logits: torch.Tensor = output.logits[0, -1]
        return logits

    def forget(self, sequence: Sequence) -> None:
        self._caches.pop(sequence.request.id, None)

    def _features(self, sequence: Sequence) -> dict[str, torch.Tensor]:
        clips, device = sequence.request.clips, self._shell.device
        mel = torch.stack([clip.mel for clip in clips]).to(device)
        frames = torch.tensor([clip.frames for clip in clips])
        mask = (torch.arange(mel.shape[-1]) < frames[:, None]).long().to(device)
        return {"input_features": mel, "feature_attention_mask": mask}

    def _model(self, adapter: Adapter) -> Any:
        if adapter.uid not in self._models:
            owners = {path for path, _ in self._shell.named_modules() if path}
            plain = self._registry.read_with(adapter, lambda folder: read_plain(folder, WEIGHTS, owners))
            # PEFT writes trained biases in place
            self._models[adapter.uid] = wrap(shell_of(self._shell, own=plain.paths), plain)
            if len(self._models) > _KEPT:
                self._models.popitem(last=False)
        self._models.move_to_end(adapter.uid)
        return self._models[adapter.uid]
