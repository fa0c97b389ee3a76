"""Configuration and tensors for plain PEFT: each module by its path today, with its numbers."""

from collections.abc import Mapping
from typing import Any

import torch

from app.errors import BadRequest
from app.registry.adapter_files.config import LoraConfig
from app.registry.adapter_files.resolve import Meaning

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


def explicit_config(meaning: Meaning, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
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
    """The number of ranks that training left each layer; the others are not in the file."""
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


def peft_tensors(meaning: Meaning, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors, by path, under the keys that PEFT expects in today's layout."""
    return {name.peft_key: tensors[name.path] for name in meaning.names}
