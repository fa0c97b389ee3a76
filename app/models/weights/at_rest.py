"""The language model's matrices at rest: which layers are quantised, and how much memory a model then takes."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from app.errors import ModelRejected
from app.models.config import on_meta
from app.models.layout import LM_HEAD, part_of
from app.models.weights.checkpoint import Checkpoint
from app.quantization.formats import Format, formats_of, matrix_bytes

Weights = Literal["bfloat16", "float8", "int8", "int4"]
Wanted = Literal["auto", "bfloat16", "float8", "int8", "int4"]


def formats_for(checkpoint: Checkpoint, wanted: Wanted) -> Mapping[str, Format]:
    """The format of each linear layer that is to lie at rest, by path.

    ``auto``: as the files have them; ``bfloat16``: none. Raises ModelRejected where the files have another format than
    ``wanted``: quantising twice would add up both errors.
    """
    of_language_model = {
        path: one.kind for path, one in checkpoint.matrices.items() if part_of(path) == "language_model"
    }
    stored = weights_of(checkpoint)
    if wanted == "auto":
        return of_language_model
    if wanted == "bfloat16":
        return {}
    if stored == "bfloat16":
        return layer_formats(checkpoint.modules, wanted)
    if stored != wanted:
        raise ModelRejected(
            f"its weights are {stored} already, and OVERTONE_WEIGHTS asks for {wanted}. Use OVERTONE_WEIGHTS=auto, or "
            "name the model in full precision."
        )
    return of_language_model


def weights_of(checkpoint: Checkpoint) -> Weights:
    """The format in which a checkpoint's files have most matrices of the language model; bfloat16: not quantised."""
    kinds = Counter(one.kind for path, one in checkpoint.matrices.items() if part_of(path) == "language_model")
    return kinds.most_common(1)[0][0] if kinds else "bfloat16"


def told(wanted: Wanted, stored: Weights) -> Weights:
    """The format that ``wanted`` comes to, for files of the format ``stored``."""
    return stored if wanted == "auto" else wanted


def layer_formats(modules: nn.Module, weights: Format) -> Mapping[str, Format]:
    """The format of each linear layer of the language model, by path. Int4 leaves out widths that are no multiple of 8.

    Embeddings, norms, biases, the audio tower and the projector stay in the model's dtype.
    """
    paths = [
        path
        for path, module in modules.named_modules()
        if isinstance(module, nn.Linear) and part_of(path) == "language_model" and module.in_features % 8 == 0
    ]
    return formats_of(paths, weights, LM_HEAD)


def weights_bytes(config: Any, weights: Weights, dtype: torch.dtype) -> int:
    """Bytes of a model of this configuration with its language model's matrices in the format ``weights``.

    ``dtype``: of everything else, and of the matrices where ``weights`` is bfloat16. Nothing is loaded.
    """
    return modules_bytes(on_meta(config), weights, dtype)


def modules_bytes(modules: nn.Module, weights: Weights, dtype: torch.dtype) -> int:
    """As `weights_bytes`, for modules that need no weights."""
    formats = {} if weights == "bfloat16" else layer_formats(modules, weights)
    shapes = {path: parameter.shape for path, parameter in modules.named_parameters()}
    at_rest = {f"{path}.weight": kind for path, kind in formats.items()}
    plain = sum(shape.numel() * dtype.itemsize for path, shape in shapes.items() if path not in at_rest)
    return plain + sum(matrix_bytes(kind, *shapes[path]) for path, kind in at_rest.items())
