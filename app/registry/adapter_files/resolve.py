"""The meaning of an adapter's files: the modules it changes, by today's paths, with rank and scaling as trained.

It is taken once, from the tensors' own names: they show which modules were trained, so expressions such as
`target_modules` need not be matched to serve.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch

from app.registry.adapter_files.config import AdapterConfig, LoraConfig, as_list
from app.registry.adapter_files.keys import Name, names_of, translate
from app.registry.adapter_files.pattern_values import pattern_values
from app.registry.adapter_files.patterns import MATCHING_S, Patterns


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
        """The factor of ``B A`` in a LoRA layer: alpha / r, or alpha / √r with rsLoRA (Kalajdzievski, 2023)."""
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
    adapter's modules only in another layout than that of its tensors, so that the trained values are ambiguous.
    """
    names = names_of(tensors)
    whole = set(as_list(config.modules_to_save))
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
    numbers, warnings = pattern_values(config, modules, Patterns(seconds), shapes)
    return Meaning(config, names, modules, saved, numbers, warnings)


def owner_of(path: str, owners: Collection[str]) -> str | None:
    """The deepest module of the base that a tensor's path lies in; None for none."""
    module = path
    while "." in module:
        module = module.rpartition(".")[0]
        if module in owners:
            return module
    return None


def _written_owner(name: Name, owner: str) -> str:
    """The owner's name as the file writes it: as many parts cut off as the path has below it."""
    below = name.path.removeprefix(owner).count(".")
    written = name.written.replace(".base_layer.", ".").replace(".token_adapter.", ".")
    return ".".join(written.split(".")[:-below])


def _is_parameter(name: Name, owner: str) -> bool:
    """True for a parameter of the base itself, False for one that a tuner adds."""
    return name.path.removeprefix(f"{owner}.") in ("weight", "bias")


def _saved_module(written: str, whole: Collection[str]) -> str | None:
    """The module of `modules_to_save` that a module lies in, by PEFT's rule: its name ends with one of them."""
    parts = written.split(".")
    for end in range(1, len(parts) + 1):
        module = ".".join(parts[:end])
        if any(module.endswith(name) for name in whole):
            return module
    return None
