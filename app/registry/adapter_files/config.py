"""`adapter_config.json`, read strictly and within bounds."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, StrictInt, ValidationError

from app.errors import BadRequest
from app.models.layout import PROJECTOR_NAME
from app.registry.adapter_files.json_file import read_json
from app.registry.adapter_files.patterns import LONGEST, check
from app.registry.adapter_files.tuners import LORA_OPTIONS, SERVED, Tuner

FILE = "adapter_config.json"
MAX_BYTES = 4 << 20  # AdaLoRA writes a list of all its ranks
MAX_NAMES = 4096  # more than the modules of any base
MAX_PATTERNS = 1024
MAX_EXPRESSION = 20_000  # characters of target_modules as one expression
LARGEST = 1 << 16  # of a number that sizes something
_UNBOUNDED = ("seed", "key", "total_step", "tinit", "tfinal", "deltaT")
# These leave the base's own weights as they are; all others recompute them while they load
_PLAIN_STARTS = {"gaussian", "eva", "orthogonal", "default", "true", "false"}


def _bounded(names: str | list[str]) -> str | list[str]:
    if isinstance(names, str):
        if len(names) > MAX_EXPRESSION:
            raise ValueError(f"it has {len(names)} characters, more than {MAX_EXPRESSION}")
    elif len(names) > MAX_NAMES:
        raise ValueError(f"it has {len(names)} names, more than {MAX_NAMES}")
    elif any(len(name) > LONGEST for name in names):
        raise ValueError(f"a name in it has more than {LONGEST} characters")
    return names


def _few(patterns: dict[str, Any]) -> dict[str, Any]:
    if len(patterns) > MAX_PATTERNS:
        raise ValueError(f"it has {len(patterns)} patterns, more than {MAX_PATTERNS}")
    for pattern in patterns:
        try:
            check(pattern)
        except BadRequest as error:
            raise ValueError(str(error)) from None
    return patterns


Names = Annotated[str | list[str], AfterValidator(_bounded)]
Ranks = Annotated[dict[str, PositiveInt], AfterValidator(_few)]
Alphas = Annotated[dict[str, FiniteFloat], AfterValidator(_few)]
Numbers = Annotated[dict[str, int | FiniteFloat], AfterValidator(_few)]


class AdapterConfig(BaseModel):
    """A configuration as PEFT wrote it, with PEFT's defaults. ``fields``: all of the file, checked only for size.

    Patterns are matched with names as the file writes them: see `app.registry.adapter_files.keys`.
    """

    model_config = ConfigDict(extra="ignore")

    peft_type: str
    base_model_name_or_path: str | None = None
    bias: str | None = "none"
    modules_to_save: Names | None = None
    target_modules: Names | None = None
    exclude_modules: Names | None = None
    feedforward_modules: Names | None = None
    layers_pattern: Names | None = None
    layers_to_transform: int | Annotated[list[int], Field(max_length=MAX_NAMES)] | None = None
    trainable_token_indices: Any = None
    task_type: Literal["CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"] | None = None
    fields: dict[str, Any] = Field({}, exclude=True)

    @property
    def tuner(self) -> Tuner:
        return SERVED[self.peft_type]

    @property
    def patterns(self) -> Mapping[str, Mapping[str, float]]:
        """Patterns of module names by their field, without empty ones."""
        found = {field: getattr(self, field, None) or self.fields.get(field) for field in self.tuner.patterns}
        return {field: patterns for field, patterns in found.items() if patterns}

    @property
    def rank(self) -> int:
        """The largest rank that the configuration names; 0 for tuners without ranks."""
        ranks = [self.fields.get(field) for field in self.tuner.ranks]
        return max([0, *(rank for rank in ranks if isinstance(rank, int)), *self._pattern_ranks()])

    @property
    def alpha(self) -> float:
        """The general alpha; 0 for tuners without."""
        alpha = self.fields.get("lora_alpha", self.fields.get("alpha", 0))
        return float(alpha) if isinstance(alpha, int | float) else 0.0

    @property
    def unservable(self) -> list[str]:
        """Options that neither way of serving honours."""
        return [] if not self.fields.get("sample_at_inference") else ["sample_at_inference draws answers at random"]

    @property
    def batched(self) -> bool:
        """True if it is served in batches; others are served alone, through plain PEFT."""
        return False

    def _pattern_ranks(self) -> list[int]:
        patterns = self.patterns.get("rank_pattern", {})
        return [int(rank) for rank in patterns.values()]


class LoraConfig(AdapterConfig):
    """The fields of LoRA that serving in batches depends on."""

    r: PositiveInt = 8
    lora_alpha: FiniteFloat = 8
    rank_pattern: Ranks | None = None
    alpha_pattern: Alphas | None = None
    use_rslora: bool | None = False
    use_dora: bool | None = False
    lora_bias: bool | None = False
    bias: Literal["none", "all", "lora_only"] | None = "none"
    init_lora_weights: Any = True

    @property
    def rank(self) -> int:
        return max([self.r, *(self.rank_pattern or {}).values()])

    @property
    def alpha(self) -> float:
        return self.lora_alpha

    @property
    def unservable(self) -> list[str]:
        found = []
        start = str(self.init_lora_weights).lower()
        if self.init_lora_weights is not None and start not in _PLAIN_STARTS:
            found.append(
                f"init_lora_weights={start[:20]!r} changes the base model's weights, so these tensors alone do not "
                "tell what was trained; convert it with PEFT's "
                "save_pretrained(path_initial_model_for_weight_conversion=…)"
            )
        for option, reason in LORA_OPTIONS.items():
            if self.fields.get(option):
                found.append(f"{option} cannot be served here: {reason}")
        return found

    @property
    def batched(self) -> bool:
        return (
            not self.use_dora
            and not self.lora_bias
            and (self.bias or "none") == "none"
            and not self.trainable_token_indices
            and all(PROJECTOR_NAME in name for name in as_list(self.modules_to_save))
        )


class _Counts(BaseModel):
    """Types of the fields that `SERVED` names: patterns map names to numbers."""

    model_config = ConfigDict(extra="ignore")

    rank_pattern: Any = None
    alpha_pattern: Numbers | None = None
    lambda_pattern: Numbers | None = None
    block_size_pattern: Numbers | None = None
    n_frequency_pattern: Numbers | None = None
    r: StrictInt | None = Field(None, ge=0)


def read_config(folder: Path) -> AdapterConfig:
    """Raises BadRequest, with the field and what is wrong, when it cannot be used."""
    try:
        return parse_config(read_json(folder / FILE, MAX_BYTES))
    except FileNotFoundError:
        raise BadRequest(f"{FILE} is missing") from None


def parse_config(fields: dict[str, Any]) -> AdapterConfig:
    """The configuration that ``fields`` are. Raises BadRequest."""
    kind = str(fields.get("peft_type"))
    try:
        if kind != "LORA" and kind in SERVED:
            _Counts.model_validate(fields)
            if kind != "ADALORA":
                _few(_of_ranks(fields.get("rank_pattern")))
        config = (LoraConfig if kind == "LORA" else AdapterConfig).model_validate({**fields, "fields": fields})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        message = first["msg"].removeprefix("Value error, ")
        raise BadRequest(f"{FILE}: {where[:80]}: {message[:300]}") from None
    except ValueError as error:
        raise BadRequest(f"{FILE}: rank_pattern: {str(error)[:300]}") from None
    if config.peft_type in SERVED:
        _check_numbers(config)
    return config


def _of_ranks(patterns: Any) -> dict[str, int]:
    if patterns is None:
        return {}
    if not isinstance(patterns, dict) or not all(type(rank) is int and rank > 0 for rank in patterns.values()):
        raise ValueError("it must map names to whole numbers above 0")
    return patterns


def _check_numbers(config: AdapterConfig) -> None:
    """No number sizes more than a layer does: PEFT makes tensors of these sizes before it reads the file's."""
    sizes = {f"{field}.{name}": value for field, named in config.patterns.items() for name, value in named.items()}
    for field, value in {**config.fields, **sizes}.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            raise BadRequest(f"{FILE}: {field[:80]}: {value} is not finite")
        most = config.tuner.most.get(field.partition("_pattern.")[0], LARGEST)
        if isinstance(value, int) and not any(part in field for part in _UNBOUNDED) and abs(value) > most:
            raise BadRequest(f"{FILE}: {field[:80]}: {value} is more than {most}, which no layer needs")


def as_list(names: str | list[str] | None) -> list[str]:
    """A field of one name or several as a list; empty for None."""
    return [names] if isinstance(names, str) else names or []
