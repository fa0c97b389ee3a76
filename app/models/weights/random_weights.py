"""A family's model at released dimensions with random weights: the speed of the real model without its download."""

from dataclasses import replace
from typing import Any

import torch

from app.errors import BadRequest, ModelRejected
from app.models.config import on_meta
from app.models.family import ModelFamily, families, sized
from app.models.loading import LoadedModel, describe
from app.models.weights.at_rest import Wanted, layer_formats
from app.models.weights.streaming import fill, model_without_weights

_STD = 0.02  # of random matrices
RANDOM = "random:"  # before a size's name in place of a model's


def sizes() -> list[str]:
    """Short names of all released dimensions."""
    return [size for family in families().values() for size in family.sizes]


def released() -> list[str]:
    """Hub ids and short names of all released dimensions."""
    return [name for family in families().values() for size, full in family.sizes.items() for name in (full.hub, size)]


def size_of(model: str) -> str | None:
    """The short name of the dimensions that ``model``, a Hub id or a short name, has; None where none are shipped."""
    for family in families().values():
        for size, full in family.sizes.items():
            if model in (size, full.hub):
                return size
    return None


def config_of(size: str, tokenizer: Any | None = None) -> Any:
    """The configuration of these dimensions; with ``tokenizer``, with its audio token. Raises BadRequest."""
    family = _family(size)
    return family.random_config(family.sizes[size].text, tokenizer)


def random_weights(
    size: str, tokenizer_from: str, device: torch.device, dtype: torch.dtype, weights: Wanted = "auto"
) -> LoadedModel:
    """A model of these dimensions on ``device``; text goes through the tokenizer of the model ``tokenizer_from``.

    ``weights``: the format of the language model's matrices; ``auto`` is bfloat16.
    Raises BadRequest for a size that is not known, ModelRejected for a tokenizer that cannot be read.
    """
    family = _family(size)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_from, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise errors of many kinds
        why = " ".join(str(error).split())[:200]
        raise ModelRejected(f"The tokenizer of {tokenizer_from} cannot be read: {why}") from None
    config = config_of(size, tokenizer)
    name = f"random-{size}"
    processor = family.random_processor(tokenizer, config)
    if weights == "auto" or weights == "bfloat16":
        model = _drawn(family, config, device, dtype)
        return LoadedModel(model, processor, describe(model, name, name))
    modules = on_meta(config)
    model = model_without_weights(config)
    drawn = torch.Generator(device).manual_seed(0)
    shapes = {path: parameter.shape for path, parameter in model.named_parameters()}

    def rows(path: str, first: int, last: int) -> torch.Tensor:
        """Norms are 1 and biases 0, as in a new model."""
        shape = (last - first, *shapes[path][1:])
        if len(shape) == 1:
            return torch.full(shape, 0.0 if path.endswith("bias") else 1.0, device=device, dtype=dtype)
        return torch.empty(shape, device=device, dtype=dtype).normal_(std=_STD, generator=drawn)

    fill(model, rows, device, dtype, layer_formats(modules, weights))
    return LoadedModel(model, processor, replace(describe(modules, name, name), dtype=dtype, weights=weights))


def _drawn(family: ModelFamily, config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A model as its class initialises it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = family.model_class()(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def _family(size: str) -> ModelFamily:
    family = sized(size)
    if family is None:
        raise BadRequest(f"There are no dimensions named {size!r}; known: {', '.join(sizes())}.")
    return family
