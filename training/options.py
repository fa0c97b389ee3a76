"""Options of one training run: every option, its default and its unit."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:  # the command line reads these options before anything that takes long to import
    from app.models.family import Targets


def _repository(name: str) -> str:
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    validate_repo_id(name)  # raises a ValueError, long before there is anything to upload
    return name


Method = Literal["lora", "projector", "head"]
Preset = Literal["seed", "balanced", "strong"]
Weights = Literal["bfloat16", "float8", "int8", "int4"]
HubId = Annotated[str, AfterValidator(_repository)]

# LoRA settings by preset, and the name of its layers in the family's `Targets`
PRESETS: dict[Preset, tuple[dict[str, Any], str]] = {
    "seed": ({"r": 8, "lora_alpha": 16}, "attention"),
    "balanced": ({"r": 16, "lora_alpha": 32}, "mlp"),
    "strong": ({"r": 32, "lora_alpha": 32, "use_rslora": True}, "all_linear"),
}
LEARNING_RATES: dict[Method, float] = {"lora": 2e-4, "projector": 1e-5, "head": 3e-3}
WIDTH = 4096  # of the language model that the LoRA rate is meant for
# A method's usual values where they differ from the fields' own defaults
USUAL: dict[str, dict[str, Any]] = {"head": {"epochs": 300.0, "batch": 256, "weight_decay": 0.1, "patience": 20}}
# Options that one method alone has
ONLY: dict[Method, tuple[str, ...]] = {
    "lora": (
        "preset", "rank", "alpha", "dropout", "targets", "dora", "lora_plus", "eva", "include_audio_tower",
    ),
    "projector": ("drift_bound", "retention_bound"),
    "head": ("hidden",),
}  # fmt: skip

# Options that are those of the adapter from which training goes on
OF_THE_START = ("preset", "rank", "alpha", "targets", "dora", "eva", "include_audio_tower")


class TrainOptions(BaseModel):
    """One run. Left out, a field has the method's usual value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = Field(description="JSONL, CSV, folder or Hugging Face dataset")
    also: tuple[str, ...] = Field((), description="more of the same, whose rows are added")
    name: str = Field(description="name of the adapter in the registry")
    owner: str | None = Field(None, description="the tenant that the adapter belongs to; default: everybody")
    validation: str | None = Field(None, description="data held out; default: a share of the rows, by audio")
    validation_share: float = Field(0.1, gt=0, lt=1)
    audio_roots: tuple[str, ...] = Field((), description="folders that recordings must lie under; none: anywhere")
    prompt: str = Field("Transcribe the audio.", description="for rows that bring none")
    task: str | None = Field(None, description="one line on what the adapter does, for its card")
    push_to_hub: HubId | None = Field(None, description="Hub repository that gets a copy of the adapter")
    allow: tuple[str, ...] = Field((), description="codes of the data gate to go on in spite of")

    promote: Literal["always", "not_worse"] = Field(
        "always", description="not_worse: a name's new version answers only if it is not worse than its current one"
    )

    start: Literal["base", "current"] = Field(
        "base", description="current: training goes on from the LoRA adapter that answers under the name now"
    )
    method: Method = "lora"
    weights: Weights | None = Field(
        None, description="format of the base's matrices: bfloat16, float8, int8 or int4; default: OVERTONE_WEIGHTS"
    )
    preset: Preset = "seed"
    rank: int | None = Field(None, ge=1, description="LoRA rank; default: the preset's")
    alpha: float | None = Field(None, gt=0, description="LoRA alpha; default: the preset's")
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: str | None = Field(None, description="regular expression of the layers to adapt")
    dora: bool = False
    lora_plus: float | None = Field(None, ge=1, description="LoRA+: learning rate of B over that of A, such as 16")
    eva: bool = Field(False, description="initialise A from the activations' principal directions")
    include_audio_tower: bool = Field(False, description="adapt q and v of the audio tower as well")
    hidden: int = Field(0, ge=0, description="width of the head's hidden layer; 0: a linear head")
    drift_bound: float = Field(0.05, gt=0, description="projector: stop at this relative change of its weights")
    retention_bound: float = Field(0.2, gt=0, le=1, description="projector: stop when more general answers change")

    epochs: float = Field(3.0, gt=0)
    max_steps: int | None = Field(None, ge=1)
    batch: int = Field(8, ge=1, description="rows in one optimiser step, of all processes together")
    micro_tokens: int = Field(8192, ge=16, description="padded tokens in one forward pass at most")
    learning_rate: float | None = Field(None, gt=0)
    warmup: float = Field(0.03, ge=0, le=1, description="share of the steps")
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    patience: int = Field(3, ge=1, description="evaluations without improvement before it stops")
    keep: Literal["best", "last"] = Field("best", description="the parameters that are published")
    seed: int = 0
    evaluate_rows: int = Field(64, ge=1, description="held-out rows that base and adapter answer")
    max_new_tokens: int = Field(128, ge=1, description="of those answers")

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, values: Any) -> Any:
        return {**USUAL.get(values.get("method", ""), {}), **values} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _of_this_method(self) -> "TrainOptions":
        """An option that the method does not know is refused, not ignored."""
        fields = type(self).model_fields
        for name in (name for method, names in ONLY.items() if method != self.method for name in names):
            if getattr(self, name) != fields[name].default:
                raise ValueError(f"{name} is no option of --method {self.method}")
        if self.start == "current":
            own = next((name for name in OF_THE_START if getattr(self, name) != fields[name].default), None)
            if self.method != "lora":
                raise ValueError(f"start=current goes on from a LoRA adapter, not with --method {self.method}")
            if own:
                raise ValueError(f"{own} is the current version's own with start=current; leave it out")
        if self.method == "head" and self.promote != "always":
            raise ValueError("promote=not_worse compares answers in words, and a head gives none")
        return self

    @property
    def rate(self) -> float:
        """Peak learning rate."""
        return self.learning_rate or LEARNING_RATES[self.method]

    def for_width(self, width: int) -> "TrainOptions":
        """With the learning rate settled: LoRA's usual rate rises as the model gets narrower than 4096."""
        rate = self.rate * WIDTH / width if self.method == "lora" and not self.learning_rate else self.rate
        return self.model_copy(update={"learning_rate": rate})

    def lora(self, targets: "Targets") -> dict[str, Any]:
        """Arguments of PEFT's `LoraConfig`; ``targets``: of the model's family."""
        from peft import EvaConfig

        settings, layers = PRESETS[self.preset]
        chosen = {**settings, "target_modules": getattr(targets, layers)}
        if self.rank:
            chosen["r"] = self.rank
        if self.alpha:
            chosen["lora_alpha"] = self.alpha
        if self.targets:
            chosen["target_modules"] = self.targets
        if self.include_audio_tower:
            chosen["target_modules"] = f"({chosen['target_modules']})|({targets.tower})"
        if self.eva:
            chosen |= {"init_lora_weights": "eva", "eva_config": EvaConfig()}
        return {**chosen, "lora_dropout": self.dropout, "use_dora": self.dora, "task_type": "CAUSAL_LM"}


@dataclass(frozen=True)
class Places:
    """``registry``: where the adapter is published. ``work``: checkpoint, logs and curves of this run."""

    registry: Path
    work: Path
