"""Whisper's decoder as a Qwen2 language model: the same function of the same tower's features, before any training.

Each of the four decoder layers becomes two Qwen2 layers: self-attention over the answer, then attention to the audio
positions with Whisper's MLP. A first layer counts the answer's tokens and adds Whisper's position vectors. Flags in
spare dimensions say what a position is (prompt, audio, answer); keys and queries read them, so that Whisper's heads
see what they saw in Whisper, and prompt and audio positions pass through unchanged. One head of each layer and the
MLPs of the first of each pair are new: they learn to follow prompts.

What differs: rotary positions leave 54 of 64 dimensions of a head untouched (the least important are dropped), GELU
is x·sigmoid(1.702 x), and biases of norms and MLPs ride on a direction that is one only on average.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2Model, WhisperForConditionalGeneration

from training.pretrain import counting
from training.pretrain.layout import (
    ALL_HEADS,
    ANSWER,
    AUDIO,
    BEGIN,
    DEEP,
    FAST,
    FIRM,
    FLAG,
    GATE,
    GELU,
    HEAD,
    HIDDEN,
    INNER,
    LOUD,
    OTHER,
    ROOT,
    SCALE_AUDIO,
    SINK,
    THETA,
    WORD,
    Origins,
    Rows,
    normed,
)
from training.pretrain.states import States
from training.pretrain.whisper import FFN, HEADS, LAYERS, WIDTH


def config(tokens: int, end: int, pad: int) -> Qwen2Config:
    """Shape of the language model."""
    return Qwen2Config(
        vocab_size=tokens, hidden_size=HIDDEN, num_hidden_layers=2 * LAYERS + 1, num_attention_heads=ALL_HEADS,
        num_key_value_heads=ALL_HEADS, intermediate_size=INNER, max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": THETA}, tie_word_embeddings=False,
        bos_token_id=pad, eos_token_id=end, pad_token_id=pad,
    )  # fmt: skip


def centred(weight: Tensor) -> Tensor:
    """Take the mean over Whisper's dimensions off an output (rows): its layer norms never see it."""
    return weight - weight.mean(0, keepdim=True)


class Transplant:
    """Writes Whisper's decoder into a Qwen2 model, layer by layer."""

    def __init__(self, source: WhisperForConditionalGeneration, states: States) -> None:
        """Take the source and the states that it was seen in."""
        self.decoder, self.states = source.model.decoder, states
        self.words = torch.empty(0)

    @torch.no_grad()
    def fill(self, model: Qwen2Model, head: nn.Linear, projector: nn.Linear, rows: Rows, origins: Origins) -> None:
        """Write all weights of the language model, its head, and the projector."""
        self._embed(model.embed_tokens.weight, rows, origins)
        self.words = model.embed_tokens.weight.clone()
        self._project(projector)
        nn.init.ones_(model.norm.weight)
        counting.write(model.layers[0], model.embed_tokens.weight, rows, self.decoder.embed_positions.weight)
        sink = normed(model.embed_tokens.weight[rows.sink])
        for number in range(LAYERS):
            first, second = model.layers[2 * number + 1], model.layers[2 * number + 2]
            layer = self.decoder.layers[number]
            self._attend(first, layer.self_attn, (number, "self_attn_layer_norm"), sink, to_audio=False)
            self._attend(second, layer.encoder_attn, (number, "encoder_attn_layer_norm"), sink, to_audio=True)
            self._add(first.mlp, layer.self_attn.out_proj.bias, (number, "encoder_attn_layer_norm"))
            self._carry(second.self_attn, layer.encoder_attn.out_proj.bias, (number, "encoder_attn_layer_norm"), sink)
            self._think(second.mlp, layer, (number, "final_layer_norm"))
        norm = self.decoder.layer_norm
        size, one = self._reading(self.states.final)
        table = self._mixed(origins, 1)
        head.weight.zero_()
        head.weight[:, :WIDTH] = table * norm.weight / size
        head.weight += (table @ norm.bias)[:, None] * one

    def _mixed(self, origins: Origins, side: int) -> Tensor:
        """Rows of Whisper's embedding table, averaged over each token's origins; zero without any."""
        table = self.decoder.embed_tokens.weight
        zero = torch.zeros(WIDTH)
        return torch.stack([table[pair[side]].mean(0) if pair[side] else zero for pair in origins])

    def _embed(self, target: Tensor, rows: Rows, origins: Origins) -> None:
        """Write the input embeddings with their flags."""
        target.zero_()
        target[:, :WIDTH] = self._mixed(origins, 0)
        target[:, :WIDTH] -= target[:, :WIDTH].mean(1, keepdim=True)
        target[:, OTHER] = WORD
        target[rows.sink, SINK] = DEEP
        target[rows.begin, BEGIN] = FLAG

    def _project(self, projector: nn.Linear) -> None:
        """Pass the tower's features through, beside a loud flag that keeps the norm constant."""
        projector.weight.zero_()
        projector.weight[:WIDTH] = SCALE_AUDIO * torch.eye(WIDTH)
        projector.bias.zero_()
        projector.bias[AUDIO] = LOUD

    def _heard(self) -> tuple[Tensor, float]:
        """Audio positions after the norm, and how much of a feature is left there."""
        hidden = torch.zeros(len(self.states.encoded), HIDDEN)
        hidden[:, :WIDTH], hidden[:, AUDIO] = SCALE_AUDIO * self.states.encoded, LOUD
        after = normed(hidden)
        return after, float(SCALE_AUDIO * ROOT / hidden.norm(dim=1).mean())

    def _reading(self, inputs: Tensor) -> tuple[float, Tensor]:
        """Size of Whisper's normalised input after the norm here, and a direction that reads one from it."""
        hidden = torch.zeros(len(inputs), HIDDEN)
        hidden[:, :WIDTH] = inputs - inputs.mean(1, keepdim=True)
        hidden[:, ANSWER] = FLAG
        after = normed(hidden)
        size = (after[:, :WIDTH].norm(dim=1) / math.sqrt(WIDTH)).mean()
        heard, _ = self._heard()
        others = torch.cat([heard, normed(self.words)])
        samples = torch.cat([after, others])
        wanted = torch.cat([torch.ones(len(after)), torch.zeros(len(others))])
        weight = torch.cat([torch.ones(len(after)) / len(after), 10 * torch.ones(len(others)) / len(others)])
        covariance = samples.T @ (weight[:, None] * samples) + 1e-5 * torch.eye(HIDDEN)
        one = torch.linalg.solve(covariance, samples.T @ (weight * wanted))
        one[SINK] = 0
        print(f"  one: {(after @ one).mean():.3f} ± {(after @ one).std():.3f}, elsewhere ± {(others @ one).std():.3f}")
        return float(size), one

    def _attend(self, layer: Any, old: Any, key: tuple[int, str], sink: Tensor, to_audio: bool) -> None:
        """Write one attention of Whisper: six heads, gates by flags, and a seventh, silent head."""
        new, inputs = layer.self_attn, self.states.inputs[key]
        norm = getattr(self.decoder.layers[key[0]], key[1])
        size, one = self._reading(inputs)
        read = norm.weight / size
        queries = norm(inputs) @ old.q_proj.weight.T + old.q_proj.bias
        seen = self.states.encoded if to_audio else norm(inputs)
        keys = seen @ old.k_proj.weight.T
        keys = _without_mean(keys, self.states.clip_frames if to_audio else self.states.clip_rows)
        _, left = self._heard()
        turned_away, to_sink = self._turned_away(sink)
        firm = FIRM if to_audio else 1.0  # keys of what is no audio are as much larger as audio is smaller
        for projection in (new.q_proj, new.k_proj, new.v_proj):
            projection.weight[: HEADS * HEAD] = 0
            projection.bias.zero_()
        slow = [pair + half for pair in range(30, FAST[-1], -1) for half in (0, HEAD // 2)]
        for head in range(HEADS):
            rows = slice(head * HEAD, (head + 1) * HEAD)
            into_query, into_key = _fewer(queries[:, rows], keys[:, rows], len(slow))
            place = [head * HEAD + dimension for dimension in slow]
            new.q_proj.weight[place, :WIDTH] = into_query.T @ old.q_proj.weight[rows] * read
            new.q_proj.bias[place] = into_query.T @ (old.q_proj.weight[rows] @ norm.bias + old.q_proj.bias[rows])
            new.k_proj.weight[place, :WIDTH] = into_key.T @ old.k_proj.weight[rows] * (1 / left if to_audio else read)
            if not to_audio:
                new.k_proj.bias[place] = into_key.T @ (old.k_proj.weight[rows] @ norm.bias)
            allowed, nothing = head * HEAD + 31, head * HEAD + 63
            new.q_proj.weight[allowed] = GATE * one
            new.k_proj.weight[allowed, OTHER] = -firm * turned_away[OTHER]
            new.k_proj.weight[allowed, SINK] = -firm * turned_away[SINK]
            if to_audio:
                new.k_proj.weight[allowed, ANSWER] = -firm * GATE / self._answer_flag(inputs)
            else:
                new.k_proj.weight[allowed, AUDIO] = -turned_away[AUDIO]
            new.q_proj.weight[nothing], new.k_proj.weight[nothing] = turned_away, firm * to_sink
        self._value(
            new, old, norm, read if not to_audio else torch.full((WIDTH,), 1 / left), float(sink[SINK]), to_audio
        )

    def _answer_flag(self, inputs: Tensor) -> float:
        """Mean of an answer's flag after the norm."""
        return ROOT * FLAG / float((WIDTH * inputs.var(1, correction=0) + FLAG**2).sqrt().mean())

    def _turned_away(self, sink: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of a query and of a key: prompt and audio positions look at SINK alone."""
        query, key = torch.zeros(HIDDEN), torch.zeros(HIDDEN)
        query[OTHER] = GATE / (ROOT * WORD / math.sqrt(WIDTH * 0.022**2 + WORD**2))  # by a prompt word's own flag
        query[SINK] = GATE / sink[SINK]
        query[AUDIO] = GATE / self._heard()[0][:, AUDIO].mean()
        key[SINK] = GATE / sink[SINK]
        return query, key

    def _value(self, new: Any, old: Any, norm: Any, read: Tensor, sunk: float, to_audio: bool) -> None:
        """Write values and output; SINK's value is zero."""
        used = HEADS * HEAD
        new.v_proj.weight[:used, :WIDTH] = old.v_proj.weight * read
        bias = old.v_proj.bias if to_audio else old.v_proj.bias + old.v_proj.weight @ norm.bias
        new.v_proj.bias[:used] = bias
        new.v_proj.weight[:used, SINK] = -bias / sunk
        new.o_proj.weight.zero_()
        new.o_proj.weight[:WIDTH, :used] = centred(old.out_proj.weight)

    def _add(self, mlp: Any, bias: Tensor, key: tuple[int, str]) -> None:
        """Have a free MLP add an attention's output bias to answers; `key`: the norm after that bias."""
        inputs = self.states.inputs[key] - bias
        _, one = self._reading(inputs)
        mlp.gate_proj.weight[FFN], mlp.up_proj.weight[FFN] = 10 * one, one / 10
        mlp.down_proj.weight.zero_()
        mlp.down_proj.weight[:WIDTH, FFN] = bias - bias.mean()

    def _carry(self, new: Any, bias: Tensor, key: tuple[int, str], sink: Tensor) -> None:
        """Have the seventh head add an attention's output bias to answers: it reads one from any answer token."""
        _, one = self._reading(self.states.inputs[key])
        base = HEADS * HEAD
        turned_away, to_sink = self._turned_away(sink)
        for projection in (new.q_proj, new.k_proj, new.v_proj):
            projection.weight[base:] *= 0.1
        new.q_proj.weight[base + 31] = new.k_proj.weight[base + 31] = GATE * one
        new.q_proj.weight[base + 63], new.k_proj.weight[base + 63] = turned_away, to_sink
        new.v_proj.weight[base] = one
        new.v_proj.weight[base, SINK] = -(one @ sink) / sink[SINK] + one[SINK]
        new.o_proj.weight[:WIDTH, base] = bias - bias.mean()

    def _think(self, new: Any, old: Any, key: tuple[int, str]) -> None:
        """Write Whisper's MLP; one neuron more carries the output's bias."""
        norm = old.final_layer_norm
        size, one = self._reading(self.states.inputs[key])
        gate, up, down = new.gate_proj.weight, new.up_proj.weight, new.down_proj.weight
        gate[:FFN] = GELU * (old.fc1.weight @ norm.bias + old.fc1.bias)[:, None] * one
        gate[:FFN, :WIDTH] += GELU * old.fc1.weight * norm.weight / size
        up[:FFN] = one / GELU
        gate[FFN], up[FFN] = 10 * one, one / 10
        down.zero_()
        down[:WIDTH, :FFN] = centred(old.fc2.weight)
        down[:WIDTH, FFN] = old.fc2.bias - old.fc2.bias.mean()


def _without_mean(keys: Tensor, clips: Tensor) -> Tensor:
    """Keys less their clip's mean, which attention does not notice."""
    count = int(clips.max()) + 1
    sums = torch.zeros(count, keys.shape[1]).index_add_(0, clips, keys)
    return keys - (sums / torch.bincount(clips, minlength=count)[:, None])[clips]


def _fewer(queries: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Maps [64, count] of queries and of keys that keep the products of the two best, most important first."""
    left, right = (_root(rows) for rows in (queries, keys))
    u, values, v = torch.linalg.svd(left @ right)
    scale = values[:count].sqrt()
    lost = values[count:].pow(2).sum() / values.pow(2).sum()
    if lost > 1e-3:
        print(f"    a head loses {lost:.4f} of its scores' variance")
    return (
        torch.linalg.solve(left, u[:, :count]) * scale,
        torch.linalg.solve(right, v[:count].T) * scale,
    )


def _root(rows: Tensor) -> Tensor:
    """Symmetric root of the second moments."""
    moments = rows.T.double() @ rows.double() / len(rows)
    values, vectors = torch.linalg.eigh(moments + 1e-6 * moments.diagonal().mean() * torch.eye(len(moments)))
    root: Tensor = ((vectors * values.sqrt()) @ vectors.T).float()
    return root
