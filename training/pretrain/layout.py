"""Shape of the language model that Whisper's decoder is written into, and which dimension says what.

A hidden state holds Whisper's 384 dimensions, then flags, then dimensions that nothing uses at first.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

HIDDEN, HEAD, ALL_HEADS, INNER = 448, 64, 7, 1600
THETA = 1e30  # of the rotary positions: pairs from the fourth on turn by less than 0.06 over 300 positions
OTHER, AUDIO, ANSWER, SINK, BEGIN, LEVEL, CODES = 384, 385, 386, 387, 388, 389, 390  # dimensions of flags
HEADS_END = 6 * HEAD  # first column after the heads that Whisper has
FLAG, WORD, DEEP = 0.08, 0.5, 4.0  # sizes of the flags: ANSWER and BEGIN, OTHER, SINK
LOUD, LIFT = 5.0, 6.0  # of AUDIO, and of LEVEL in the first layer
SCALE_AUDIO = 0.1  # of the tower's features in the hidden state: small beside LOUD, so that the norm is constant
GATE = math.sqrt(320.0)  # squared and divided by 8: 40 nats between what a head may see and what it may not
FIRM = 5.0  # times GATE where keys of words are larger than they were in Whisper
FAST = (0, 1, 2, 3)  # rotary pairs that turn: not for Whisper's heads
MARKS = 3  # SINK tokens of a prompt: system, user, assistant
POSITIONS = 110  # tokens of an answer that get Whisper's position vector
ROOT = math.sqrt(HIDDEN)
GELU = 1.702

Origins = list[tuple[list[int], list[int]]]  # per token: rows of Whisper's table for its input and for its output


@dataclass(frozen=True)
class Rows:
    """Token ids whose embeddings play a part of their own."""

    sink: int  # begins every prompt; looked at by those who shall see nothing
    begin: int  # last word of a prompt: counting begins here


def normed(hidden: Tensor) -> Tensor:
    """RMS norm without weights."""
    return hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-6)
