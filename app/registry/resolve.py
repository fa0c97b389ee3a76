"""What an adapter's files mean: the modules that it changes, by today's paths, with rank and scaling as trained.

Decided once, from the tensors' own names: they tell which modules were trained, so expressions such as
`target_modules` need not be matched to serve. Where a configuration has numbers by pattern (`rank_pattern`,
`alpha_pattern` …), the patterns are matched with the names that the file uses, as they were during training. Plain PEFT
then gets a configuration that names each module and its numbers, in today's layout.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from app.errors import BadRequest
from app.registry.config import AdapterConfig, LoraConfig
from app.registry.keys import Name, names_of, spellings, translate
from app.registry.patterns import Patterns

MATCHING_S = 1.0  # for all patterns of one adapter
# These show in the tensors' shapes, which are compared later
_TOLD_BY_SHAPES = {"rank_pattern", "block_size_pattern", "n_frequency_pattern"}
_SPELLED = "; write its name as the tensors' names have it, or as the end of one"


@dataclass(frozen=True)
class Meaning:
    """``modules``: path today -> written name, of each layer with tensors of the tuner. ``saved``: the same for
    modules whose whole parameters are in the file. ``numbers``: field -> path -> value, where it is not the default.
    """

    config: AdapterConfig
    names: list[Name]
    modules: Mapping[str, str]
    saved: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def scaling_of(self, path: str, rank: int) -> float:
        """What PEFT multiplies ``B A`` of a LoRA with: alpha / r, or alpha / √r with rsLoRA (Kalajdzievski, 2023)."""
        assert isinstance(self.config, LoraConfig)
        alpha = self.numbers.get("alpha_pattern", {}).get(path, self.config.lora_alpha)
        return alpha / (rank**0.5 if self.config.use_rslora else rank)

    def rank_of(self, path: str) -> int:
        """The rank that the configuration gives a LoRA layer."""
        assert isinstance(self.config, LoraConfig)
        return int(self.numbers.get("rank_pattern", {}).get(path, self.config.r))


def resolve(
    config: AdapterConfig, tensors: Mapping[str, torch.Tensor], owners: Collection[str], *, seconds: float = MATCHING_S
) -> Meaning:
    """The meaning of a configuration for ``tensors``, by the file's keys, over a base with the modules ``owners``.

    Raises BadRequest for two names of one tensor, for patterns that take long, and for patterns that fit the
    adapter's modules only in another layout than that of its tensors, so that what was trained cannot be told.
    """
    names = names_of(tensors)
    whole = set(_texts(config.modules_to_save))
    modules: dict[str, str] = {}
    saved: dict[str, str] = {}
    for name in names:
        owner = owner_of(name.path, owners)
        if owner is None:
            continue
        written = _written_owner(name, owner)
        module = _saved_module(written, whole) if whole and _is_parameter(name, owner) else None
        if module is not None:
            saved[translate(module)] = module
        elif not _is_parameter(name, owner):
            modules[owner] = written
    shapes = {name.path: tuple(tensors[name.key].shape) for name in names}
    numbers, warnings = _numbers(config, modules, Patterns(seconds), shapes)
    return Meaning(config, names, modules, saved, numbers, warnings)


def owner_of(path: str, owners: Collection[str]) -> str | None:
    """The deepest module of the base that a tensor's path lies in; None for none."""
    module = path
    while "." in module:
        module = module.rpartition(".")[0]
        if module in owners:
            return module
    return None


def explicit(meaning: Meaning, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The configuration for plain PEFT: each module by its path today, nothing left to be matched.

    ``tensors`` by path, as `Name.path` has it.
    """
    config = meaning.config
    fields = {key: value for key, value in config.fields.items() if key not in _MATCHED}
    fields |= {
        "target_modules": sorted(meaning.modules) or _NOTHING,
        "modules_to_save": sorted(meaning.saved) or None,
        "task_type": None,
        "inference_mode": True,
    }
    fields |= {name: dict(meaning.numbers.get(name, {})) for name in config.tuner.patterns}
    if isinstance(config, LoraConfig):
        fields |= {"init_lora_weights": True, "loftq_config": {}, "eva_config": None, "megatron_config": None}
    if config.peft_type == "ADALORA":
        fields["rank_pattern"] = _adalora_ranks(meaning, tensors)
    if config.peft_type == "IA3":
        fields["feedforward_modules"] = [
            path for path in sorted(meaning.modules) if len(_tensor(tensors, f"{path}.ia3_l")) == 1
        ]
    if config.trainable_token_indices:
        fields["trainable_token_indices"] = _token_indices(meaning)
        fields["target_modules"] = sorted(set(meaning.modules) - fields["trainable_token_indices"].keys()) or _NOTHING
    return fields


_NOTHING = "dummy-target-modules"  # PEFT's word for an adapter of saved modules alone
_MATCHED = {
    "auto_mapping",
    "exclude_modules",
    "layers_pattern",
    "layers_to_transform",
    "peft_version",
    "revision",
    "runtime_config",
    "target_parameters",
}


def missing_layers(meaning: Meaning, owners: Iterable[str], *, seconds: float = MATCHING_S) -> list[str]:
    """Written names of layers that `target_modules` names although the file has no tensors for them.

    Only layers of parts of the model that the file has some tensors of: leaving out a whole part is common (an
    adapter without its tower). Empty where that cannot be told: no list, or expressions that take long.
    """
    config = meaning.config
    targets = config.target_modules
    if not targets or not meaning.modules or str(targets).lower() == "all-linear" or config.trainable_token_indices:
        return []
    layouts = {_layout(path, written) for path, written in meaning.modules.items()}
    if len(layouts) != 1:
        return []
    layout = layouts.pop()
    kinds = {(_part(path), path.rpartition(".")[2]) for path in meaning.modules}
    parts = {part for part, _ in kinds}
    matcher = Patterns(seconds)
    found = []
    try:
        for path in owners:
            if path in meaning.modules or _part(path) not in parts or path in meaning.saved:
                continue
            written = spelled(path, layout)
            if _targeted(config, written, matcher):
                found.append(written)
    except BadRequest:
        return []
    return found


def spelled(path: str, layout: int) -> str:
    """A path in one of the layouts of `keys.spellings`; today's where it has no such one."""
    found = spellings(path)
    return found[layout] if layout < len(found) else found[0]


def _layout(path: str, written: str) -> int:
    found = spellings(path)
    return found.index(written) if written in found else 0


def _part(path: str) -> str:
    return ".".join(path.split(".")[:2])


def _targeted(config: AdapterConfig, name: str, matcher: Patterns) -> bool:
    """PEFT's `check_target_module_exists`."""
    excluded = config.exclude_modules
    if isinstance(excluded, str) and matcher.full(excluded, name):
        return False
    if isinstance(excluded, list) and _listed(excluded, name):
        return False
    if isinstance(config.target_modules, str):
        return matcher.full(config.target_modules, name)
    if name in (config.target_modules or []):
        return True
    return _listed(config.target_modules or [], name) and _in_layers(config, name, matcher)


def _listed(names: list[str], name: str) -> bool:
    parts = name.split(".")
    ends = {".".join(parts[start:]) for start in range(len(parts))}
    return not ends.isdisjoint(names)


def _in_layers(config: AdapterConfig, name: str, matcher: Patterns) -> bool:
    wanted = config.layers_to_transform
    if wanted is None or wanted == []:
        return True
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit() and 0 < place < len(parts) - 1]
    patterns = _texts(config.layers_pattern)
    if patterns:
        numbers = [n for n in numbers if any(matcher.ends(p, ".".join(parts[:n])) for p in patterns)]
    else:
        numbers = [n for n in numbers if n >= 2]
    return bool(numbers) and int(parts[numbers[0]]) in ([wanted] if isinstance(wanted, int) else wanted)


def _numbers(
    config: AdapterConfig, modules: Mapping[str, str], matcher: Patterns, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """field -> path -> value, for each module that a pattern fits; warnings where it fits several."""
    found: dict[str, dict[str, float]] = {}
    unsure: list[str] = []
    for field_name, patterns in config.patterns.items():
        used: set[str] = set()
        values: dict[str, float] = {}
        for path, written in modules.items():
            hits = matcher.hits(patterns, written, dotted=config.tuner.dotted)
            if not hits and field_name in _TOLD_BY_SHAPES:
                others = (matcher.hits(patterns, other, dotted=config.tuner.dotted) for other in spellings(path))
                hits = next((other for other in others if other), {})
            used |= hits.keys()
            rank = _rank_in(path, shapes) if field_name == "rank_pattern" else None
            if rank is not None and rank in hits.values():
                values[path] = rank
            elif hits:
                values[path] = next(iter(hits.values()))
                if len(set(hits.values())) > 1:
                    unsure.append(f"{field_name} of {written}: {values[path]:g}")
        if len(used) < len(patterns) and field_name not in _TOLD_BY_SHAPES:
            _refuse_other_layouts(field_name, patterns, used, modules, matcher, config.tuner.dotted)
        found[field_name] = values
    return found, _told(unsure)


def _told(unsure: list[str]) -> list[str]:
    if not unsure:
        return []
    more = f" and {len(unsure) - 1} more" if len(unsure) > 1 else ""
    return [
        f"several patterns with other values fit one layer; the first in the file counts, as in PEFT ("
        f"{unsure[0]}{more}), but PEFT sorts patterns when it saves, so training may have had another order"
    ]


# Tensors that show the rank of a layer, with the dimension where it shows
_RANKS = (
    ("lora_A.weight", 0),
    ("lora_embedding_A", 0),
    ("hada_w1_b", 0),
    ("lokr_w2_b", 0),
    ("lokr_w1_b", 0),
    ("hira_A", 0),
    ("delora_A", 0),
)


def _rank_in(path: str, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    found = (shapes.get(f"{path}.{name}", ())[side : side + 1] for name, side in _RANKS)
    return next((sides[0] for sides in found if sides), None)


def _refuse_other_layouts(
    field_name: str,
    patterns: Mapping[str, float],
    used: Collection[str],
    modules: Mapping[str, str],
    matcher: Patterns,
    dotted: bool,
) -> None:
    """A pattern that fits nothing as the file spells it, but something in another layout, was translated by halves.

    Raises BadRequest.
    """
    others = {
        spelling: path for path, written in modules.items() for spelling in spellings(path) if spelling != written
    }
    for pattern, value in patterns.items():
        if pattern in used:
            continue
        for spelling, path in others.items():
            if matcher.first({pattern: value}, spelling, dotted=dotted) and not _covered(
                patterns, used, modules[path], value, matcher, dotted
            ):
                raise BadRequest(
                    f"{field_name} has {pattern[:120]!r}, which fits {spelling}; the tensors call that layer "
                    f"{modules[path]}, which it does not fit: whether it counted in training cannot be told{_SPELLED}"
                )


def _covered(
    patterns: Mapping[str, float], used: Collection[str], written: str, value: float, matcher: Patterns, dotted: bool
) -> bool:
    """Whether the module has the same number from a pattern that does fit."""
    hit = matcher.first({p: v for p, v in patterns.items() if p in used}, written, dotted=dotted)
    return hit is not None and hit[1] == value


def _written_owner(name: Name, owner: str) -> str:
    """The owner's name as the file writes it: as many parts cut off as the path has below it."""
    below = name.path.removeprefix(owner).count(".")
    written = name.written.replace(".base_layer.", ".").replace(".token_adapter.", ".")
    return ".".join(written.split(".")[:-below])


def _is_parameter(name: Name, owner: str) -> bool:
    """Whether the tensor is a parameter of the base itself, not one that a tuner adds."""
    return name.path.removeprefix(f"{owner}.") in ("weight", "bias")


def _saved_module(written: str, whole: Collection[str]) -> str | None:
    """The module of `modules_to_save` that a module lies in, by PEFT's rule: its name ends with one of them."""
    parts = written.split(".")
    for end in range(1, len(parts) + 1):
        module = ".".join(parts[:end])
        if any(module.endswith(name) for name in whole):
            return module
    return None


def _token_indices(meaning: Meaning) -> dict[str, list[int]]:
    """Trained tokens by the path of their embedding."""
    named = meaning.config.trainable_token_indices
    owners = {n.path.rpartition(".")[0]: n.written for n in meaning.names if n.path.endswith(".trainable_tokens_delta")}
    if isinstance(named, list):
        return {path: named for path in owners if path.endswith("embed_tokens")}
    found = {}
    for path, written in owners.items():
        module = written.removesuffix(".trainable_tokens_delta").removesuffix(".token_adapter")
        match = next((indices for name, indices in named.items() if module.endswith(name)), None)
        if match is not None:
            found[path] = match
    return found


def _adalora_ranks(meaning: Meaning, tensors: Mapping[str, torch.Tensor]) -> dict[str, list[bool]] | None:
    """How many ranks training left each layer. Which ones does not matter: the others are gone."""
    most = int(meaning.config.fields.get("init_r") or 12)
    found = {}
    for path in meaning.modules:
        rank = len(_tensor(tensors, f"{path}.lora_E"))
        if rank > most:
            raise BadRequest(f"{path}.lora_E has {rank} ranks, its configuration's init_r is {most}")
        if rank != most:
            found[f"{path}.lora_E"] = [True] * rank + [False] * (most - rank)
    return found or None


def _tensor(tensors: Mapping[str, torch.Tensor], path: str) -> torch.Tensor:
    if path not in tensors or tensors[path].dim() == 0:
        raise BadRequest(f"{path} is missing")
    return tensors[path]


def _texts(names: str | list[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else names or []


def peft_tensors(meaning: Meaning, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors, by path, under the keys that PEFT expects in today's layout."""
    return {name.peft_key: tensors[name.path] for name in meaning.names}
