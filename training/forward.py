"""The training forward pass: cached tower outputs in, logits only where answers are supervised."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from training.examples import Example
from training.hearing import Hearing


class Forward:
    """Transformers' own Qwen2 over packed rows; ``model`` is the `Qwen2AudioForConditionalGeneration` inside.

    Rows are padded on the right: under causal attention no token sees the padding, so no mask is needed.
    """

    def __init__(self, model: Any, hearing: Hearing) -> None:
        self.model = model
        self._hearing = hearing
        self.checkpointing = False

    def checkpoint_activations(self) -> None:
        """Recompute each layer on the way back: less memory, about a third more time."""
        layers = self.model.model.language_model
        # transformers 5.23 renamed it
        enable = getattr(layers, "activation_checkpointing_enable", None) or layers.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        self.checkpointing = True

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.lm_head.weight.device
        return device

    def precision(self) -> torch.autocast:
        """float32 adapters compute in the base's half precision; their gradients and updates stay float32."""
        dtype = self.model.lm_head.weight.dtype
        half = dtype != torch.float32
        return torch.autocast(self.device.type, dtype if half else torch.bfloat16, enabled=half)

    def loss(self, examples: Sequence[Example]) -> torch.Tensor:
        """Cross entropy summed over all supervised tokens (nats). Divide it by `supervised` of the whole step."""
        hidden = self.hidden(examples)
        rows = [row for row, example in enumerate(examples) for _ in example.labels]
        places = [place for example in examples for place in example.labels]
        targets = torch.tensor([example.ids[place] for example in examples for place in example.labels])
        before = hidden[rows, [place - 1 for place in places]]  # a token is predicted where the one before it is
        logits = self.model.lm_head(before).float()
        return F.cross_entropy(logits, targets.to(logits.device), reduction="sum")

    def hidden(self, examples: Sequence[Example]) -> torch.Tensor:
        """The language model's last hidden states [rows, longest, width]."""
        longest = max(len(example.ids) for example in examples)
        ids = torch.zeros(len(examples), longest, dtype=torch.long)
        for row, example in enumerate(examples):
            ids[row, : len(example.ids)] = torch.tensor(example.ids)
        with self.precision():
            embeds = self.embed(ids.to(self.device), examples)
            output = self.model.model.language_model(inputs_embeds=embeds, use_cache=False)
        last: torch.Tensor = output.last_hidden_state
        return last

    def embed(self, ids: torch.Tensor, examples: Sequence[Example], *, silent: bool = False) -> torch.Tensor:
        """Token embeddings of ``ids`` [rows, tokens] with the audio, or silence as long, where its tokens stand."""
        embeds: torch.Tensor = self.model.get_input_embeddings()(ids)
        clips = [clip for example in examples for clip in example.clips]
        if clips:
            projector = self.model.model.multi_modal_projector
            dtype = next((p for p in projector.parameters() if p.requires_grad), self.model.lm_head.weight).dtype
            heard = self._hearing.silence(clips) if silent else self._hearing.tower_output(clips)
            audio = projector(torch.cat(heard).to(embeds.device, dtype)).to(embeds.dtype)
            embeds = embeds.masked_scatter((ids == self.model.config.audio_token_id)[..., None], audio)
        return embeds


def supervised(examples: Sequence[Example]) -> int:
    """Tokens that a step's loss is divided by."""
    return sum(len(example.labels) for example in examples)
