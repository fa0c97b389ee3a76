"""Memory that training an adapter takes, reckoned from a model's dimensions.

The activations of a token are what was measured on an H200 with Qwen2-Audio's dimensions (8 clips of 30 s, 38.3 GB at
the peak), in numbers per layer, plus a tenth.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from app.models.device_memory import CONTEXT, LIBRARIES, MARGIN
from app.models.shape import WEIGHTS, ModelShape, weight_bytes

ROW_TOKENS = 800  # of a row with a clip of 30 s, its question and answer
ANSWER_TOKENS = 64
_HALF = 2  # bytes of an activation: autocast keeps them in half precision, whatever the base's dtype
_WIDE, _INNER = 5, 3  # numbers of an activation's layer in widths of the model and of the MLP
_TOWER_WIDE, _TOWER_INNER = 9, 3  # the same of a layer of the encoder, where it is trained; not measured
_SAFE = 1.1
STATE = 16  # bytes of a trained number: itself, its gradient, and AdamW's two moments, in float32
_LOGIT = 16  # bytes of a logit of a supervised token: in half and full precision, its probability and gradient


@dataclass(frozen=True)
class Batch:
    """A micro-batch: padded tokens, how many of them are supervised, and clips that pass a tower that is trained."""

    tokens: int
    supervised: int
    clips: int = 0


ONE_CLIP = Batch(ROW_TOKENS, ANSWER_TOKENS)


def training_bytes(
    shape: ModelShape, trained: int, batch: Batch, *, itemsize: int, checkpointing: bool, weights: str = WEIGHTS[0]
) -> Mapping[str, int]:
    """Bytes of each part of a training process. ``trained``: numbers that are trained; ``itemsize``: of the base."""
    return {
        "weights": weight_bytes(shape, weights, itemsize),
        "adapter": STATE * trained,
        "activations": activation_bytes(shape, batch, itemsize=itemsize, checkpointing=checkpointing, weights=weights),
        "CUDA": CONTEXT + LIBRARIES,
        "margin": MARGIN,
    }


def activation_bytes(
    shape: ModelShape, batch: Batch, *, itemsize: int, checkpointing: bool, weights: str = WEIGHTS[0]
) -> int:
    """Bytes that a micro-batch takes beside the weights and the adapter's state."""
    of_layer = _HALF * (_WIDE * shape.hidden + _INNER * shape.intermediate)
    kept = shape.layers * _HALF * shape.hidden + 2 * of_layer if checkpointing else shape.layers * of_layer
    dequantised = 0 if weights == WEIGHTS[0] else 2 * shape.largest_matrix * itemsize
    tower = _HALF * shape.window * (_TOWER_WIDE * shape.tower_width + _TOWER_INNER * shape.tower_inner)
    tower *= batch.clips * shape.tower_layers
    return int(_SAFE * (batch.tokens * kept + tower)) + batch.supervised * shape.vocabulary * _LOGIT + dequantised


def lora_numbers(shape: ModelShape, rank: int, projections: tuple[str, ...] = ("q_proj", "v_proj")) -> int:
    """Numbers of a LoRA adapter on these projections of the language model's layers."""
    return rank * sum(
        sum(one)
        for path, one in shape.linears.items()
        if ".language_model." in path and path.rpartition(".")[2] in projections
    )


def least_training_bytes(shape: ModelShape, itemsize: int, weights: str = WEIGHTS[0], rank: int = 8) -> int:
    """Bytes of LoRA training on q and v with one clip of 30 s at a time and activation checkpointing."""
    trained = lora_numbers(shape, rank)
    parts = training_bytes(shape, trained, ONE_CLIP, itemsize=itemsize, checkpointing=True, weights=weights)
    return sum(parts.values())
