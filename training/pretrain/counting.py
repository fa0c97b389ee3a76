"""The first layer: it counts the tokens since the prompt's end and adds Whisper's position vector for that number.

Heads look at BEGIN and at SINK; rotary positions make the share of BEGIN a wave of the distance. Five waves are a
code of the distance, which the MLP turns into a vector. A sixth head marks every token from BEGIN on as ANSWER.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from training.pretrain.layout import (
    ANSWER,
    BEGIN,
    CODES,
    FLAG,
    GATE,
    HEAD,
    HIDDEN,
    INNER,
    LEVEL,
    LIFT,
    MARKS,
    OTHER,
    POSITIONS,
    SINK,
    THETA,
    WORD,
    Rows,
    normed,
)
from training.pretrain.whisper import HEADS, WIDTH


def write(layer: Any, table: Tensor, rows: Rows, vectors: Tensor) -> None:
    """Write the layer; `table`: input embeddings, `vectors` [POSITIONS or more, 384]: Whisper's positions."""
    attention = layer.self_attn
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight[: HEADS * HEAD] = 0
        projection.bias.zero_()
    begin, sink = normed(table[rows.begin])[BEGIN], normed(table[rows.sink])[SINK]
    out = attention.o_proj.weight
    out.zero_()
    waves = [(0, 0.0), (0, math.pi / 2), (1, 0.0), (1, math.pi / 2), (2, math.pi / 2)]
    for head in range(HEADS):
        base = head * HEAD
        attention.q_proj.bias[base + 31] = GATE
        attention.k_proj.weight[base + 31, SINK] = (GATE - 8 * math.log(MARKS) / GATE) / sink
        attention.k_proj.weight[base + 31, BEGIN] = (GATE if head < len(waves) else 1.5 * GATE) / begin
        attention.v_proj.weight[base, BEGIN] = 1 / begin
        if head < len(waves):
            pair, phase = waves[head]
            attention.q_proj.bias[base + pair] = 4.0
            attention.k_proj.weight[base + pair, BEGIN] = 4.0 * math.cos(phase) / begin
            attention.k_proj.weight[base + pair + HEAD // 2, BEGIN] = 4.0 * math.sin(phase) / begin
            out[CODES + head, base] = 1.0
        else:
            out[ANSWER, base], out[OTHER, base], out[LEVEL, base] = FLAG, -WORD, LIFT
    _place(layer.mlp, waves, vectors[:POSITIONS].double())


def _place(mlp: Any, waves: list[tuple[int, float]], vectors: Tensor) -> None:
    """Fit the first layer's MLP: code -> Whisper's position vector; it also takes the code and LEVEL away."""
    count = torch.arange(POSITIONS, dtype=torch.double)
    turns = [THETA ** (-2 * pair / HEAD) for pair, _ in waves]
    codes = torch.stack(
        [torch.sigmoid(2 * torch.cos(turn * count - phase)) for turn, (_, phase) in zip(turns, waves, strict=True)],
        1,
    )
    hidden = torch.zeros(POSITIONS, HIDDEN, dtype=torch.double)
    hidden[:, CODES : CODES + len(waves)] = codes
    hidden[:, LEVEL], hidden[:, ANSWER] = LIFT, FLAG
    hidden[:, 0] = math.sqrt(WIDTH) * 0.022  # as large as a word's embedding; where, makes no difference
    after = normed(hidden)
    target = torch.zeros(POSITIONS, HIDDEN, dtype=torch.double)
    target[:, :WIDTH] = vectors - vectors.mean(1, keepdim=True)
    target[:, CODES : CODES + len(waves)] = -codes
    target[:, LEVEL] = -LIFT
    generator = torch.Generator().manual_seed(0)
    level = float(after[0, LEVEL])
    weight = torch.randn(INNER, len(waves), generator=generator, dtype=torch.double) * 3
    weight = weight / float(after[:, CODES : CODES + len(waves)].std())
    shift = -(weight * after[:, CODES : CODES + len(waves)].mean(0)).sum(1)
    shift = shift + torch.randn(INNER, generator=generator, dtype=torch.double) * 3
    gate = after[:, CODES : CODES + len(waves)] @ weight.T + shift
    features = nn.functional.silu(gate)
    kernel = features @ features.T
    kernel += 1e-5 * kernel.diagonal().mean() * torch.eye(POSITIONS, dtype=torch.double)
    down = features.T @ torch.linalg.solve(kernel, target)
    print(
        f"  position vectors: error {(features @ down - target).norm() / target[:, :WIDTH].norm():.4f}, "
        f"weights {down.abs().max():.3f}"
    )
    mlp.gate_proj.weight.zero_()
    mlp.up_proj.weight.zero_()
    mlp.gate_proj.weight[:, CODES : CODES + len(waves)] = weight.float()
    mlp.gate_proj.weight[:, LEVEL] = (shift / level).float()
    mlp.up_proj.weight[:, LEVEL] = 1 / level
    mlp.down_proj.weight.copy_(down.T.float())
