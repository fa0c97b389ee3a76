"""PEFT's tuners: which are served, under which bounds, and why the others are not.

Served are those whose every layer has tensors of its own in the file and whose result depends on nothing but the file
and the base: PEFT then computes here what it computed where the adapter was trained.
"""

from dataclasses import dataclass, field

_AS_LORA = "make a LoRA of it with PEFT's save_as_lora(folder, model, rank=64), or merge it into a base of its own"


@dataclass(frozen=True)
class Tuner:
    """``ranks``: fields that OVERTONE_MAX_RANK limits; ``usual``: a rank that is taken in any case, PEFT's default.

    ``patterns``: fields that map patterns of module names to numbers, with the field of the default.
    ``dotted``: its patterns fit only behind a dot. ``shared``: tensors of no layer, by their names.
    ``most``: the largest value of fields that cost more than their number.
    """

    ranks: tuple[str, ...] = ("r",)
    usual: int = 0
    patterns: dict[str, str] = field(default_factory=dict)
    dotted: bool = False
    shared: tuple[str, ...] = ()
    most: dict[str, int] = field(default_factory=dict)


_RANK_ALPHA = {"rank_pattern": "r", "alpha_pattern": "alpha"}
SERVED: dict[str, Tuner] = {
    "LORA": Tuner(patterns={"rank_pattern": "r", "alpha_pattern": "lora_alpha"}),
    "ADALORA": Tuner(ranks=("init_r", "target_r", "r")),
    "BEFT": Tuner(ranks=()),
    "BOFT": Tuner(ranks=(), most={"boft_n_butterfly_factor": 16}),
    "C3A": Tuner(ranks=(), patterns={"block_size_pattern": "block_size"}, dotted=True),
    "DEFT": Tuner(),
    "DELORA": Tuner(patterns={"rank_pattern": "r", "lambda_pattern": "delora_lambda"}),
    "FOURIERFT": Tuner(
        ranks=(), patterns={"n_frequency_pattern": "n_frequency"}, dotted=True, most={"n_frequency": 1 << 24}
    ),
    "GLORA": Tuner(),
    "GRALORA": Tuner(ranks=("r", "hybrid_r")),
    "HIRA": Tuner(patterns={"rank_pattern": "r"}),
    "HRA": Tuner(),
    "IA3": Tuner(ranks=()),
    "LN_TUNING": Tuner(ranks=()),
    "LOHA": Tuner(patterns=_RANK_ALPHA),
    "LOKR": Tuner(patterns=_RANK_ALPHA),
    "MISS": Tuner(usual=64),
    "OFT": Tuner(ranks=(), most={"num_cayley_neumann_terms": 64}),
    "PEANUT": Tuner(most={"depth": 16}),
    "PVERA": Tuner(usual=256, shared=("pvera_A", "pvera_B")),
    "RANDLORA": Tuner(shared=("randlora_A", "randlora_B")),
    "ROAD": Tuner(ranks=()),
    "SHIRA": Tuner(),
    "TRAINABLE_TOKENS": Tuner(ranks=()),
    "VBLORA": Tuner(shared=("vblora_vector_bank",), most={"num_vectors": 4096, "vector_length": 4096}),
    "VERA": Tuner(usual=256, shared=("vera_A", "vera_B")),
    "WAVEFT": Tuner(ranks=(), patterns={"n_frequency_pattern": "n_frequency"}, most={"n_frequency": 1 << 24}),
}
_TOKENS = "it puts virtual tokens before the prompt, and serving has no place for them; train LoRA"
_FACTORS = "it works out factors of the base's own weights while it loads, which differ from machine to machine; "
REFUSED = {
    "PROMPT_TUNING": _TOKENS,
    "P_TUNING": _TOKENS,
    "PREFIX_TUNING": _TOKENS,
    "MULTITASK_PROMPT_TUNING": _TOKENS,
    "CPT": _TOKENS,
    "CARTRIDGE": _TOKENS,
    "ADAPTION_PROMPT": "it puts prompts of its own into the attention of LLaMA's layers, which this base has not",
    "POLY": "it wants the number of a task with each request; train LoRA for each task",
    "XLORA": "it is a router over several adapters; add each of them, and mix them as `a:0.7,b:0.3`",
    "SHADOW": "it runs a second model beside the base; train LoRA",
    "OSF": _FACTORS + _AS_LORA,
    "PSOFT": _FACTORS + _AS_LORA,
    "ADAMSS": _FACTORS + _AS_LORA,
    "FROD": _FACTORS + _AS_LORA,
    "TINYLORA": _FACTORS + _AS_LORA,
    "SUPERTUNING": "its places are chosen from the base's own weights while it loads; " + _AS_LORA,
    "LILY": "its layers share parts by their order in the model; " + _AS_LORA,
    "UNILORA": "one vector serves all layers, by an order that is drawn while it loads; " + _AS_LORA,
    "BONE": "PEFT has renamed it to MISS; convert it with PEFT's scripts/convert-bone-to-miss.py",
}
# Options of LoRA that neither way of serving honours
LORA_OPTIONS = {
    "layer_replication": "it makes a deeper model of the base; merge it into a base of its own",
    "target_parameters": "it changes parameters that are no layers; train with target_modules",
    "alora_invocation_tokens": "it begins within the prompt (aLoRA); train LoRA without it",
    "use_qalora": "it is bound to a GPTQ base; train LoRA",
    "monteclora_config": "it draws its weights at random; train LoRA",
    "use_bdlora": "its matrices are blocks of another shape; train LoRA",
    "arrow_config": "it is a router over several adapters; add each of them, and mix them as `a:0.7,b:0.3`",
    "kasa_config": "it changes the base's own weights while it loads; " + _AS_LORA,
}


def refusal(peft_type: str) -> str:
    """The reason why adapters of a kind are not served, and the way over."""
    reason = REFUSED.get(peft_type, f"it is no kind of adapter that PEFT 0.21 knows; served are {', '.join(SERVED)}")
    return f"peft_type {peft_type[:40]} cannot be served here: {reason}"
