"""The training forward pass: cached tower outputs in, logits only where answers are supervised."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from app.models import layout
from training.audio_features import AudioFeatures
from training.examples import Example


class Forward:
    """transformers' own language model over padded rows; ``model``: the base model inside PEFT's.

    Rows are padded on the right: under causal attention no token sees the padding, so no mask is needed.
    """

    def __init__(self, model: Any, audio_features: AudioFeatures) -> None:
        self.model = model
        self._audio_features = audio_features
        self.checkpointing = False

    def checkpoint_activations(self) -> None:
        """Recompute each layer on the way back: less memory, about a third more time."""
        layers = layout.language_model(self.model)
        # transformers 5.23 renamed it
        enable = getattr(layers, "activation_checkpointing_enable", None) or layers.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        self.checkpointing = True

    @property
    def device(self) -> torch.device:
        return self._embedding.device

    @property
    def _embedding(self) -> torch.Tensor:
        """Weights that are in the model's dtype, whatever the format of its matrices."""
        weight: torch.Tensor = self.model.get_input_embeddings().weight
        return weight

    def precision(self) -> torch.autocast:
        """float32 adapters compute in the base's half precision; their gradients and updates stay float32."""
        dtype = self._embedding.dtype
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
            output = layout.language_model(self.model)(inputs_embeds=embeds, use_cache=False)
        last: torch.Tensor = output.last_hidden_state
        return last

    def embed(self, ids: torch.Tensor, examples: Sequence[Example], *, silent: bool = False) -> torch.Tensor:
        """Token embeddings of ``ids`` [rows, tokens] with the audio, or silence as long, where its tokens stand."""
        embeds: torch.Tensor = self.model.get_input_embeddings()(ids)
        clips = [clip for example in examples for clip in example.clips]
        if clips:
            projector = layout.projector(self.model)
            dtype = next((p for p in projector.parameters() if p.requires_grad), self._embedding).dtype
            encoded = self._audio_features.silence(clips) if silent else self._audio_features.tower_output(clips)
            audio = projector(torch.cat(encoded).to(embeds.device, dtype)).to(embeds.dtype)
            embeds = embeds.masked_scatter((ids == self.model.config.audio_token_id)[..., None], audio)
        return embeds


def supervised(examples: Sequence[Example]) -> int:
    """Tokens that a step's loss is divided by."""
    return sum(len(example.labels) for example in examples)
