"""Paths of a base model's parts.

transformers gives its audio language models one layout: a tower, a projector and a language model inside `model`,
and the output layer beside it. Each family here has it, so paths are constants and no family's own.
"""

from typing import Any, Literal, get_args

Part = Literal["audio_tower", "projector", "language_model"]
PARTS: tuple[Part, ...] = get_args(Part)

AUDIO_TOWER = "model.audio_tower"
PROJECTOR = "model.multi_modal_projector"
LANGUAGE_MODEL = "model.language_model"
LM_HEAD = "lm_head"
LAYERS = f"{LANGUAGE_MODEL}.layers"
EMBEDDING = f"{LANGUAGE_MODEL}.embed_tokens"
PROJECTOR_NAME = PROJECTOR.rpartition(".")[2]

# Beginnings of paths in layouts of older releases of transformers, and today's; the first that fits counts:
# `language_model.model.layers.0` is `model.language_model.layers.0` today
OLDER = (
    ("language_model.model.", f"{LANGUAGE_MODEL}."),
    ("language_model.lm_head.", f"{LM_HEAD}."),
    ("language_model.", f"{LANGUAGE_MODEL}."),
    ("audio_tower.", f"{AUDIO_TOWER}."),
    ("multi_modal_projector.", f"{PROJECTOR}."),
)


def audio_tower(model: Any) -> Any:
    """The audio tower's module in a base model."""
    return model.get_submodule(AUDIO_TOWER)


def projector(model: Any) -> Any:
    """The projector's module in a base model."""
    return model.get_submodule(PROJECTOR)


def language_model(model: Any) -> Any:
    """The language model's module in a base model, without the output layer."""
    return model.get_submodule(LANGUAGE_MODEL)


def part_of(path: str) -> Part:
    """The part that a module or parameter path of today's layout belongs to; `lm_head` is the language model's."""
    if path.startswith(f"{AUDIO_TOWER}."):
        return "audio_tower"
    return "projector" if path.startswith(f"{PROJECTOR}.") else "language_model"


def parameter_path(name: str) -> str:
    """The path today of a tensor in a checkpoint of any layout that transformers has written.

    `language_model.model.layers…` (the Hub's), `language_model.model.model.layers…` (written by transformers
    5.17 to 5.23), `model.language_model.layers…` (today's).
    """
    inner = name.removeprefix("model.")
    if inner.startswith(("audio_tower.", "multi_modal_projector.")):
        return f"model.{inner}"
    if not inner.startswith("language_model."):
        return name
    inner = inner.removeprefix("language_model.")
    if inner.startswith(f"{LM_HEAD}."):
        return inner
    while inner.startswith("model."):
        inner = inner.removeprefix("model.")
    return f"{LANGUAGE_MODEL}.{inner}"
