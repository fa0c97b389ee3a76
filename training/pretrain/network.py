"""The model's forward pass for training: the same function as Transformers', on shorter windows.

Transformers encodes the full 10 s window of every clip. Here the mel is as long as the longest
clip of the batch; positions past a clip's end are masked in both, so that the result is equal.
"""

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Qwen2AudioForConditionalGeneration
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

from training.pretrain.pool import IGNORE, Batch

CTC_LAYER = 4  # hidden states from which audio positions are asked for the words, of 6 layers
CTC_SHARE = 0.3
SMOOTHING = 0.05
FORGET = 0.06  # share of an answer's input tokens replaced at random: sound must decide, not habit
DROPOUT = 0.1  # on the tower's features


def encode(tower: Qwen2AudioEncoder, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Encode mel [clips, 128, frames]; return the tower's features [clips, positions, width] and counts [clips]."""
    window = 2 * tower.max_source_positions
    hidden = functional.gelu(tower.conv1(mel[..., :window]))
    hidden = functional.gelu(tower.conv2(hidden)).permute(0, 2, 1)
    valid, counts = tower._get_feat_extract_output_lengths(frames)
    hidden = hidden[:, : int(hidden.shape[1]) // 2 * 2]
    length = hidden.shape[1]
    hidden = hidden + tower.embed_positions.weight[:length]
    valid_positions = torch.arange(length, device=mel.device)[None, :] < valid[:, None]
    mask = valid_positions[:, None, None, :].expand(-1, 1, length, -1)
    for layer in tower.layers:
        hidden = layer(hidden, mask)
    hidden = tower.avg_pooler(hidden.permute(0, 2, 1)).permute(0, 2, 1)
    return tower.layer_norm(hidden), counts


def listen(model: Qwen2AudioForConditionalGeneration, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Encode mel [clips, 128, frames]; return projected features [clips, positions, hidden] and counts [clips]."""
    tower = model.model.audio_tower
    with torch.set_grad_enabled(torch.is_grad_enabled() and next(tower.parameters()).requires_grad):
        hidden, counts = encode(tower, mel, frames)
    hidden = functional.dropout(hidden, DROPOUT, model.training)
    return model.model.multi_modal_projector(hidden), counts


def loss(model: Qwen2AudioForConditionalGeneration, batch: Batch, with_ctc: bool = True) -> tuple[Tensor, Tensor]:
    """Return the answers' cross entropy and the CTC loss of the words at the audio positions."""
    features, counts = listen(model, batch.mel, batch.frames)
    logits, middle = answer(model, batch, features, counts, CTC_LAYER if with_ctc else None)
    targets = batch.labels[:, 1:]
    entropy = functional.cross_entropy(
        logits.float(), targets[targets != IGNORE], label_smoothing=SMOOTHING if model.training else 0.0
    )
    if middle is None or not model.training:
        return entropy, entropy.new_zeros(())
    audio = batch.ids == model.config.audio_token_id
    return entropy, _ctc(model, middle, audio, counts, batch)


def answer(
    model: Qwen2AudioForConditionalGeneration,
    batch: Batch,
    features: Tensor,
    counts: Tensor,
    layer: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Logits [answer tokens of all clips, vocabulary], and the normed states of a layer if one is named."""
    valid_positions = torch.arange(features.shape[1], device=counts.device)[None, :] < counts[:, None]
    audio = batch.ids == model.config.audio_token_id
    ids = _forget(batch, model.config.text_config.vocab_size) if model.training else batch.ids
    embedded = model.get_input_embeddings()(ids)
    embedded = embedded.masked_scatter(audio[..., None], features[valid_positions].to(embedded.dtype))
    # right padding and causal attention: what follows a clip's answer can't reach it
    states = model.model.language_model(inputs_embeds=embedded, output_hidden_states=layer is not None, use_cache=False)
    logits: Tensor = model.lm_head(states.last_hidden_state[:, :-1][batch.labels[:, 1:] != IGNORE])
    middle = model.model.language_model.norm(states.hidden_states[layer]) if layer is not None else None
    return logits, middle


def _ctc(
    model: Qwen2AudioForConditionalGeneration,
    hidden: Tensor,
    audio: Tensor,
    counts: Tensor,
    batch: Batch,
) -> Tensor:
    """CTC over the audio positions with the language model's own head; AUDIO is the blank."""
    first = audio.int().argmax(1)
    place = first[:, None] + torch.arange(int(counts.max()), device=first.device)
    place = place.clamp(max=hidden.shape[1] - 1)[..., None].expand(-1, -1, hidden.shape[2])
    logits = model.lm_head(hidden.gather(1, place)).float()
    return functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        batch.spoken,
        counts.cpu(),
        batch.spoken_length,
        blank=model.config.audio_token_id,
        zero_infinity=True,
    )


def _forget(batch: Batch, vocabulary: int) -> Tensor:
    """Replace a few of the answers' input tokens by random ones; the labels stay."""
    forgotten = (batch.labels != IGNORE) & (torch.rand_like(batch.labels, dtype=torch.float) < FORGET)
    return torch.where(forgotten, torch.randint_like(batch.ids, vocabulary), batch.ids)
