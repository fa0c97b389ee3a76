"""A classification head on the frozen audio tower: pooling, the head itself, and its two files.

Server and trainer share it, so a head says in service what it said in training.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveInt,
    StringConstraints,
    ValidationError,
    field_validator,
)
from safetensors.torch import save_file

from app.errors import BadRequest
from app.models.weights.tensors import read_tensors

CONFIG = "head.json"
WEIGHTS = "head.safetensors"
FEATURES: Literal["audio_tower mean+std"] = "audio_tower mean+std"
MAX_LABELS = 10_000

Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class HeadConfig(BaseModel):
    """`head.json`. ``width``: of the tower; ``hidden``: of the layer between, 0 for a linear head.

    ``temperature`` divides the logits (Guo et al., 2017).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: Literal[1] = Field(1, alias="schema")
    labels: tuple[Label, ...] = Field(min_length=2, max_length=MAX_LABELS)
    features: Literal["audio_tower mean+std"] = FEATURES
    width: PositiveInt
    hidden: int = Field(0, ge=0)
    temperature: FiniteFloat = Field(1.0, gt=0)

    @field_validator("labels")
    @classmethod
    def _once_each(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"{Counter(value).most_common(1)[0][0]!r} stands there twice")
        return value

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of `head.safetensors`: ``weight`` and ``bias`` are the last layer's."""
        features, labels = 2 * self.width, len(self.labels)
        first = {"hidden.weight": (self.hidden, features), "hidden.bias": (self.hidden,)} if self.hidden else {}
        last = {"weight": (labels, self.hidden or features), "bias": (labels,)}
        return {"mean": (features,), "scale": (features,), **first, **last}


@dataclass(frozen=True)
class Head:
    """``tensors``: float32 on the CPU, as `HeadConfig.shapes` says."""

    config: HeadConfig
    tensors: Mapping[str, torch.Tensor]

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """[rows, labels] of pooled features [rows, 2 * width], before the temperature."""
        return apply(self.tensors, (features - self.tensors["mean"]) / self.tensors["scale"])

    def probabilities(self, features: torch.Tensor) -> torch.Tensor:
        """Calibrated probabilities [rows, labels] of pooled features [rows, 2 * width]."""
        return torch.softmax(self.logits(features) / self.config.temperature, dim=-1)

    def save(self, folder: Path) -> None:
        """Write both files."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, folder / WEIGHTS)
        (folder / CONFIG).write_text(self.config.model_dump_json(indent=2, by_alias=True) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Moments:
    """Moments of one clip: the number of ``frames``, and their mean and variance, float32 [width] on the CPU."""

    frames: int
    mean: torch.Tensor
    variance: torch.Tensor


def apply(tensors: Mapping[str, torch.Tensor], standardised: torch.Tensor) -> torch.Tensor:
    """The layers of a head over standardised features [rows, 2 * width]; logits [rows, labels]."""
    hidden = standardised
    if "hidden.weight" in tensors:
        hidden = F.gelu(F.linear(hidden, tensors["hidden.weight"], tensors["hidden.bias"]))
    return F.linear(hidden, tensors["weight"], tensors["bias"])


def moments(hidden: torch.Tensor) -> Moments:
    """The moments of a clip's tower output [audio tokens, width], worked out where it lies."""
    variance, mean = torch.var_mean(hidden.float(), dim=0, correction=0)
    both = torch.stack([mean, variance]).cpu()
    return Moments(len(hidden), both[0], both[1])


def pool(clips: Sequence[Moments]) -> torch.Tensor:
    """Features [2 * width] of one recording: mean and standard deviation over the frames of all its clips."""
    frames = torch.tensor([clip.frames for clip in clips], dtype=torch.float32)
    share = (frames / frames.sum())[:, None]
    means = torch.stack([clip.mean for clip in clips])
    mean = (share * means).sum(0)
    within = torch.stack([clip.variance for clip in clips])
    variance = (share * (within + (means - mean).square())).sum(0)
    return torch.cat([mean, variance.sqrt()])


def read_config(folder: Path) -> HeadConfig:
    """Raises BadRequest, with the field and what is wrong, when it cannot be used."""
    try:
        return HeadConfig.model_validate(json.loads((folder / CONFIG).read_text(encoding="utf-8-sig")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BadRequest(f"{CONFIG}: {where[:80]}: {first['msg']}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadRequest(f"{CONFIG} cannot be read ({type(error).__name__})") from None


def read_head(folder: Path) -> Head:
    """A validated head. Raises BadRequest, or what safetensors raises for damaged files."""
    tensors = read_tensors(folder / WEIGHTS)
    return Head(read_config(folder), {name: tensor.float() for name, tensor in tensors.items()})
