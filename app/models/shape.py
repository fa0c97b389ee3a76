"""Dimensions of a model without its weights: what the plan of memory reads."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.errors import BadRequest
from app.models.config import CONFIG, on_meta, read_config
from app.models.family import family_of, head_dim
from app.models.layout import AUDIO_TOWER, LM_HEAD, part_of
from app.models.loading import BaseSpec, describe
from app.models.weights.at_rest import Wanted, Weights, told, weights_of
from app.models.weights.checkpoint import open_checkpoint, refusing
from app.models.weights.random_weights import RANDOM, config_of, released, size_of
from app.quantization.formats import FORMATS, formats_of, matrix_bytes

CLIP_FRAMES = 3000  # mel frames of a clip of 30 s


@dataclass(frozen=True)
class ModelShape:
    """``parameters``: path -> shape; ``linears``: path -> (outputs, inputs). ``hidden`` to ``positions``: of the
    language model. ``window``: positions of the encoder. ``clip_tokens``: audio tokens of a clip of 30 s, or of the
    window where that is shorter. ``fused``: as `LanguageModel.fused`.
    ``weights``: the format of the language model's matrices once it is loaded.
    """

    name: str
    parameters: Mapping[str, tuple[int, ...]]
    linears: Mapping[str, tuple[int, int]]
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    positions: int
    window: int
    clip_tokens: int
    fused: bool
    weights: Weights = "bfloat16"

    @property
    def numbers(self) -> int:
        """Numbers of all parameters."""
        return sum(math.prod(shape) for shape in self.parameters.values())

    @property
    def largest_matrix(self) -> int:
        """Numbers of the largest matrix of the language model, `lm_head` included."""
        return max(math.prod(one) for path, one in self.linears.items() if part_of(path) == "language_model")

    @property
    def column_numbers(self) -> int:
        """Numbers of one adapter column on every linear layer: language model, `lm_head`, tower and projector."""
        return sum(outputs + inputs for outputs, inputs in self.linears.values())

    @property
    def projector_numbers(self) -> int:
        """Numbers of the projector's parameters."""
        return sum(math.prod(shape) for path, shape in self.parameters.items() if part_of(path) == "projector")

    @property
    def tower_width(self) -> int:
        """Width of the encoder's layers."""
        return max((shape[1] for path, shape in self._tower), default=0)

    @property
    def tower_inner(self) -> int:
        """Width within the encoder's MLPs."""
        return max((shape[0] for path, shape in self._tower), default=0)

    @property
    def tower_layers(self) -> int:
        """Layers of the encoder."""
        return sum(path.endswith("fc1") for path, _ in self._tower)

    @property
    def projector_inner(self) -> int:
        """Widest output of the projector's layers."""
        return max((s[0] for path, s in self.linears.items() if part_of(path) == "projector"), default=self.hidden)

    @property
    def _tower(self) -> list[tuple[str, tuple[int, int]]]:
        tower = [(path, shape) for path, shape in self.linears.items() if path.startswith(f"{AUDIO_TOWER}.")]
        return [(path, shape) for path, shape in tower if path.endswith(("q_proj", "fc1"))]


def shape_of(config: Any, spec: BaseSpec) -> ModelShape:
    """The dimensions of a model that is loaded or described."""
    text, audio, family = config.get_text_config(), config.audio_config, family_of(config)
    window = int(audio.max_source_positions)
    return ModelShape(
        name=spec.name,
        parameters=spec.parameters,
        linears=spec.linears,
        hidden=int(text.hidden_size),
        intermediate=int(text.intermediate_size),
        layers=int(text.num_hidden_layers),
        heads=int(text.num_attention_heads),
        kv_heads=int(text.num_key_value_heads),
        head_dim=head_dim(text),
        vocabulary=spec.linears[LM_HEAD][0],
        positions=int(text.max_position_embeddings),
        window=window,
        clip_tokens=family.tower.tokens(min(CLIP_FRAMES, 2 * window)),
        fused=family.language_model.fused,
        weights=spec.weights,
    )


def shape_to_load(source: str, weights: Wanted) -> ModelShape:
    """The dimensions of a model that is to be loaded; a Hub model is downloaded. Raises ModelRejected as `load`.

    ``weights``: as in `load`.
    """
    if source.startswith(RANDOM):
        return replace(shape_from(source), weights=told(weights, "bfloat16"))
    checkpoint = open_checkpoint(source)
    shape = shape_of(checkpoint.config, describe(checkpoint.modules, checkpoint.name, checkpoint.name))
    return replace(shape, weights=told(weights, weights_of(checkpoint)))


def shape_from(source: str) -> ModelShape:
    """The dimensions of a model that is not loaded: `random:NAME`, a folder with a `config.json`, or a Hub id.

    Nothing is downloaded: of a Hub model, the configuration lies in the cache or its dimensions are known. Raises
    BadRequest, and ModelRejected for a configuration that is not served.
    """
    name, config = _config_from(source)
    with refusing(name):
        modules = on_meta(config)
    return shape_of(config, describe(modules, name, name))


def _config_from(source: str) -> tuple[str, Any]:
    if source.startswith(RANDOM):
        size = source.removeprefix(RANDOM)
        return f"random-{size}", config_of(size)
    folder = Path(source)
    if folder.is_dir():
        name = folder.resolve().name
        with refusing(name):
            return name, read_config(folder)
    if cached := _cached_config(source):
        with refusing(source):
            return source, read_config(cached)
    if (known := size_of(source)) is not None:
        return source, config_of(known)
    raise BadRequest(
        f"The dimensions of {source!r} are not known here: there is no such folder, and it was not downloaded. Name a "
        f"folder with a {CONFIG}, or one of: {', '.join(released())}."
    )


def _cached_config(repository: str) -> Path | None:
    """The folder of a Hub model's configuration in the cache; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repository, CONFIG)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


WEIGHTS = (
    "bfloat16",
    *FORMATS,
)  # of the language model's matrices: the model's dtype, or fewer bits


def weight_bytes(shape: ModelShape, weights: str, itemsize: int) -> int:
    """Bytes of all weights in a format. ``itemsize``: of a number in the dtype of all that no format changes."""
    matrices = {path: one for path, one in shape.linears.items() if part_of(path) == "language_model"}
    kind = next((kind for kind in FORMATS if kind == weights), None)
    at_rest = formats_of((path for path, one in matrices.items() if one[1] % 8 == 0), kind, LM_HEAD) if kind else {}
    plain = shape.numbers - sum(math.prod(matrices[path]) for path in at_rest)
    return plain * itemsize + sum(matrix_bytes(of_one, *matrices[path]) for path, of_one in at_rest.items())
