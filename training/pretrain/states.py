"""States of Whisper's decoder while it writes known words: the samples that the transplant is fitted on."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import Qwen2AudioProcessor, WhisperForConditionalGeneration
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

from training.pretrain import network, whisper
from training.pretrain.speech.signals import HOP
from training.pretrain.speech.voices import RATE, Wave

NORMS = ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")


@dataclass
class States:
    """Rows of several clips one after another; `clip_*` says which clip a row belongs to."""

    inputs: dict[tuple[int, str], Tensor] = field(default_factory=dict)  # (layer, norm) -> [rows, 384] before the norm
    final: Tensor = field(default_factory=lambda: torch.empty(0))
    encoded: Tensor = field(default_factory=lambda: torch.empty(0))  # [frames, 384] pooled, as the projector gets them
    clip_rows: Tensor = field(default_factory=lambda: torch.empty(0))
    clip_frames: Tensor = field(default_factory=lambda: torch.empty(0))


@torch.inference_mode()
def collect(model: WhisperForConditionalGeneration, encoded: list[Tensor], spoken: list[list[int]]) -> States:
    """Feed the decoder with each clip's features [frames, 384] and the ids of its words."""
    seen: dict[tuple[int, str], list[Tensor]] = {}
    final: list[Tensor] = []
    handles = [model.model.decoder.layer_norm.register_forward_pre_hook(lambda _, x: final.append(x[0][0]))]
    for number, layer in enumerate(model.model.decoder.layers):
        for name in NORMS:
            norm: nn.Module = getattr(layer, name)
            rows = seen.setdefault((number, name), [])
            handles.append(norm.register_forward_pre_hook(lambda _, x, rows=rows: rows.append(x[0][0])))
    for features, ids in zip(encoded, spoken, strict=True):
        tokens = torch.tensor([[whisper.START, whisper.NO_TIMESTAMPS, *ids]])
        model.model.decoder(input_ids=tokens, encoder_hidden_states=features[None])
    for handle in handles:
        handle.remove()
    inputs = {key: torch.cat(rows) for key, rows in seen.items()}
    return States(inputs, torch.cat(final), torch.cat(encoded), _numbered(final), _numbered(encoded))


@torch.inference_mode()
def encode(tower: Qwen2AudioEncoder, processor: Qwen2AudioProcessor, samples: Wave) -> Tensor:
    """Features [positions, 384] of one clip, cut to its length and blind to what follows it, as Qwen2-Audio does."""
    found = processor.feature_extractor(samples, sampling_rate=RATE, return_tensors="pt")
    frames = torch.tensor([-(-len(samples) // HOP)])
    hidden, counts = network.encode(tower, found.input_features, frames)
    return hidden[0, : int(counts[0])]


def _numbered(parts: list[Tensor]) -> Tensor:
    """Number of the part that each row is in."""
    return torch.cat([torch.full((len(part),), number) for number, part in enumerate(parts)])
