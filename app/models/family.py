"""Model families: the architecture's facts that loading, engine, registry and trainer depend on, and their registry.

A family is one module of this package that defines a `ModelFamily` and stands in `families`. No other code names one.
The tests of a family compare it with plain transformers and PEFT.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Protocol

import torch

Conversation = Sequence[tuple[str, Sequence[str | None]]]  # role and parts of each turn: a text, or None for audio


class AudioTower(Protocol):
    """The encoder: from log-mel frames to one row per audio token, as the projector takes them.

    A family whose projector stacks frames (Voxtral) stacks them here; one with an encoder of its own (Qwen3-ASR) has
    a module for it beside `audio_tower`.
    """

    def tokens(self, frames: int) -> int:
        """Audio tokens that ``frames`` valid mel frames become."""

    def width(self, parameters: Mapping[str, tuple[int, ...]]) -> int:
        """Width of an output row. ``parameters``: path of the whole model -> shape."""

    def run(self, tower: Any, mels: Sequence[torch.Tensor], frames: Sequence[int]) -> list[torch.Tensor]:
        """The output for each clip, [audio tokens, width].

        ``tower``: the module. ``mels``: [mel bins, window frames] each, padded as the feature extractor pads;
        ``frames``: the number of valid ones in each.
        """


class PromptFormat(Protocol):
    """The form of a conversation in the language model's vocabulary.

    ``required``: control tokens that the tokenizer must have, besides the processor's audio token.
    ``header``: text from which an answer begins. ``end``: token that closes a turn; ``ends``: all that end an answer.
    """

    required: tuple[str, ...]
    header: str
    end: str
    ends: tuple[str, ...]

    def render(
        self,
        processor: Any,
        conversation: Conversation,
        tools: Sequence[Mapping[str, Any]] = (),
        calls: Mapping[int, Sequence[Mapping[str, Any]]] = MappingProxyType({}),
    ) -> str:
        """The prompt up to where the next answer begins, with one audio token of the processor for each None.

        ``tools``, and ``calls`` of tools by the number of their turn: as transformers' chat templates take them; only
        for templates that know tools.
        """

    def token_bytes(self, tokenizer: Any, token: int) -> bytes:
        """The bytes that a token of an answer stands for, which may be half a character."""


@dataclass(frozen=True)
class LanguageModel:
    """Facts of transformers' language model class.

    Biases of projections, rotary scaling and the number of KV heads are read from its modules and configuration.

    ``module``: where transformers defines it. ``compiled``: elementwise functions there that training may compile,
    as (owner's class or "", function). ``no_mask``: the ``attention_mask`` that leaves masking to the attention
    function. ``fused``: the CUDA pass computes it, that is, norms before attention and MLP, biases on q, k and v,
    rotary halves, SiLU, no norm of queries and keys; other models take the pass of plain modules.
    """

    module: str
    compiled: tuple[tuple[str, str], ...]
    no_mask: Any
    fused: bool


# Linear layers of a decoder layer that read the same input, which the engine computes as one product; vLLM's
# `packed_modules_mapping`. All language models here name them alike.
PACKED_PROJECTIONS: dict[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "mlp": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
    "head": ("lm_head",),
}


@dataclass(frozen=True)
class Targets:
    """Regular expressions of module paths for PEFT's ``target_modules``.

    ``attention``: q and v of the language model; ``mlp``: its MLPs; ``all_linear``: each linear layer of its layers;
    ``tower``: q and v of the audio tower; ``placeholder``: one layer, for what PEFT wants beside a saved projector.
    """

    attention: str = r".*language_model.*\.(q_proj|v_proj)"
    mlp: str = r".*language_model.*\.(gate_proj|up_proj|down_proj)"
    all_linear: str = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    tower: str = r".*audio_tower.*\.(q_proj|v_proj)"
    placeholder: str = r".*language_model\.layers\.0\.self_attn\.q_proj"


@dataclass(frozen=True)
class FullSize:
    """Dimensions of a released model. ``hub``: its id there; ``text``: fields of the language model's configuration.

    The audio side's are the defaults of its configuration class.
    """

    hub: str
    text: Mapping[str, Any]


class ModelFamily(Protocol):
    """One architecture of audio language models.

    ``model_type`` and ``architecture``: as `config.json` has them. ``config_parts``: field of `config.json` ->
    ``model_type`` expected there. ``processor``: name of the processor's class. ``title``: its name for people.
    ``sizes``: released dimensions by a short name, for `random:NAME`. ``joins_windows``: a recording longer than the
    window is cut into whole windows, which share one span of audio tokens in the prompt; otherwise it is cut in its
    pauses, and each clip has a span of its own.
    """

    model_type: str
    architecture: str
    config_parts: Mapping[str, str]
    processor: str
    title: str
    tower: AudioTower
    joins_windows: bool
    prompt: PromptFormat
    language_model: LanguageModel
    targets: Targets
    sizes: Mapping[str, FullSize]

    def config_class(self) -> Any:
        """transformers' configuration class; imported when it is called."""

    def model_class(self) -> Any:
        """transformers' model class with the output layer; imported when it is called."""

    def extractor_fields(self, config: Any) -> Mapping[str, int]:
        """Attributes that the feature extractor must have for a model of this configuration."""

    def inputs(self, mels: torch.Tensor, valid: torch.Tensor) -> dict[str, torch.Tensor]:
        """Audio arguments of the model's own ``forward``.

        ``mels``: [clips, mel bins, window frames]; ``valid``: int64 [clips, window frames], 1 for a valid frame.
        """

    def random_config(self, text: Mapping[str, Any], tokenizer: Any | None = None) -> Any:
        """A configuration of these dimensions; with ``tokenizer``, with its audio token."""

    def random_processor(self, tokenizer: Any, config: Any) -> Any:
        """A processor for a model of `random_config`, around the tokenizer of another model."""


@cache
def families() -> Mapping[str, ModelFamily]:
    """All families by ``model_type``."""
    from app.models.audio_flamingo3 import AUDIO_FLAMINGO_3
    from app.models.qwen2_audio import QWEN2_AUDIO

    known: tuple[ModelFamily, ...] = (QWEN2_AUDIO, AUDIO_FLAMINGO_3)
    return {family.model_type: family for family in known}


def family_of(config: Any) -> ModelFamily:
    """The family of a model's configuration. Raises KeyError for one that is not served."""
    return families()[config.model_type]


def family_of_processor(processor: Any) -> ModelFamily:
    """The family that a processor belongs to. Raises KeyError for one that is not served."""
    by_processor = {family.processor: family for family in families().values()}
    return next(by_processor[cls.__name__] for cls in type(processor).__mro__ if cls.__name__ in by_processor)


def sized(name: str) -> ModelFamily | None:
    """The family that has released dimensions called ``name``; None where none has."""
    return next((family for family in families().values() if name in family.sizes), None)


def head_dim(config: Any) -> int:
    """Width of one attention head; ``config``: the language model's."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
