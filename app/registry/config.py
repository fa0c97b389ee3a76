"""`adapter_config.json`, read strictly: only the fields that serving depends on."""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, ValidationError

from app.errors import BadRequest

FILE = "adapter_config.json"
# These recompute the base's own weights while they load, so the adapter alone does not tell what was trained
REWRITES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Patterns come from strangers and are matched with every layer: nothing in them may backtrack for long
MAX_PATTERNS, MAX_REPEATING, MAX_REPEATS = 1024, 8, 2


def _is_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern[:80]!r} is no regular expression") from error
    if len(pattern) > 300 or any(_searches_long(branch) for branch in _branches(pattern)):
        raise ValueError(
            f"{pattern[:80]!r} is more than a layer's name needs; use at most {MAX_REPEATS} of * + ?, "
            "no repeated groups, counted repeats or references, or name the layers"
        )
    return pattern


def _branches(pattern: str) -> list[str]:
    """The alternatives at the top, with their escapes and character classes blanked out."""
    bare = re.sub(r"\\[1-9]", "{", pattern)  # a reference is refused as a counted repeat is
    bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", bare)
    depth, found = 0, [""]
    for letter in bare:
        depth += (letter == "(") - (letter == ")")
        if letter == "|" and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return found


def _searches_long(branch: str) -> bool:
    return len(_REPEAT.findall(branch)) > MAX_REPEATS or _COSTLY.search(branch) is not None


def _are_few(patterns: dict[str, Any]) -> dict[str, Any]:
    if len(patterns) > MAX_PATTERNS:
        raise ValueError(f"more than {MAX_PATTERNS} patterns")
    if sum(bool(_REPEAT.search(pattern)) for pattern in patterns) > MAX_REPEATING:
        raise ValueError(f"more than {MAX_REPEATING} patterns with * + or ?; name the layers instead")
    return patterns


_REPEAT = re.compile(r"(?<!\\)[*+?]")
_COSTLY = re.compile(r"\)[*+?]|\{|\(\?")
Pattern = Annotated[str, AfterValidator(_is_pattern)]
Ranks = Annotated[dict[Pattern, PositiveInt], AfterValidator(_are_few)]
Alphas = Annotated[dict[Pattern, FiniteFloat], AfterValidator(_are_few)]


class AdapterConfig(BaseModel):
    """What PEFT wrote. Fields that are absent have PEFT's defaults; fields of other tuners are left out."""

    model_config = ConfigDict(extra="ignore")

    peft_type: str
    base_model_name_or_path: str | None = None
    r: PositiveInt = 8
    lora_alpha: FiniteFloat = 8
    rank_pattern: Ranks | None = None
    alpha_pattern: Alphas | None = None
    use_rslora: bool | None = False
    use_dora: bool | None = False
    lora_bias: bool | None = False
    bias: Literal["none", "all", "lora_only"] | None = "none"
    modules_to_save: list[str] | None = None
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_pattern: str | list[str] | None = None
    trainable_token_indices: Any = None
    init_lora_weights: Any = True
    layer_replication: Any = None
    target_parameters: Any = None
    alora_invocation_tokens: Any = None
    task_type: Literal["CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"] | None = Field(None)

    def rank_of(self, path: str) -> int:
        """LoRA rank at a module path; the first pattern that ends it counts, as in PEFT."""
        return next((rank for key, rank in (self.rank_pattern or {}).items() if _ends(key, path)), self.r)

    def scaling_of(self, path: str) -> float:
        """What PEFT multiplies ``B A`` with: alpha / r, or alpha / √r with rsLoRA (Kalajdzievski, 2023)."""
        alpha = next((a for key, a in (self.alpha_pattern or {}).items() if _ends(key, path)), self.lora_alpha)
        rank = self.rank_of(path)
        return alpha / (rank**0.5 if self.use_rslora else rank)

    @property
    def max_rank(self) -> int:
        return max([self.r, *(self.rank_pattern or {}).values()])

    @property
    def unservable(self) -> list[str]:
        """Options that neither way of serving honours."""
        found = []
        if isinstance(self.init_lora_weights, str) and self.init_lora_weights.lower().startswith(REWRITES_BASE):
            found.append(
                f"init_lora_weights={self.init_lora_weights[:20]!r} changes the base model's weights; convert it with "
                "PEFT's save_pretrained(path_initial_model_for_weight_conversion=…)"
            )
        for option in ("layer_replication", "target_parameters", "alora_invocation_tokens"):
            if getattr(self, option):
                found.append(f"{option} cannot be served here")
        return found

    @property
    def costly_patterns(self) -> list[str]:
        """What is wrong with the expressions that plain PEFT matches with every layer."""
        patterns = [self.target_modules, self.exclude_modules]
        layers = self.layers_pattern or []
        found = []
        for pattern in [*patterns, *([layers] if isinstance(layers, str) else layers)]:
            try:
                _is_pattern(pattern if isinstance(pattern, str) else "")
            except ValueError as error:
                found.append(str(error))
        return found

    @property
    def batched(self) -> bool:
        """Whether a masked dense product serves it; the rest goes through plain PEFT, alone."""
        return (
            self.peft_type == "LORA"
            and not self.use_dora
            and not self.lora_bias
            and (self.bias or "none") == "none"
            and not self.trainable_token_indices
            and all("multi_modal_projector" in name for name in self.modules_to_save or [])
        )


def read_config(folder: Path) -> AdapterConfig:
    """Raises BadRequest, with the field and what is wrong, when it cannot be used."""
    try:
        return AdapterConfig.model_validate(json.loads((folder / FILE).read_text()))
    except FileNotFoundError:
        raise BadRequest(f"{FILE} is missing") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BadRequest(f"{FILE}: {where[:80]}: {first['msg']}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadRequest(f"{FILE} cannot be read ({type(error).__name__})") from None


def _ends(pattern: str, path: str) -> bool:
    return _ending(pattern).match(path) is not None


@lru_cache(4 * MAX_PATTERNS)  # more than re itself keeps: EVA names every layer
def _ending(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")
