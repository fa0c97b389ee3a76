"""The configuration of a base model: read from its folder, refused where it is another model's."""

import json
from pathlib import Path
from typing import Any

import torch

from app.errors import ModelRejected
from app.models.family import ModelFamily, families, family_of
from app.models.weights.foreign_weights import check_quantization
from app.models.weights.safetensors_header import AGAIN, refuse_pointer

CONFIG = "config.json"
BASE = "overtone_base"  # field of it that names the checkpoint whose weights were quantised


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``. Raises ModelRejected, also where the file is not there."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise ModelRejected(f"there is no {file.name}. {AGAIN}") from None
    except OSError as error:
        raise ModelRejected(f"{file.name} cannot be read: {error.strerror}.") from None
    refuse_pointer(file, data[:64])
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelRejected(f"{file.name} is no JSON ({str(error)[:80]}). {AGAIN}") from None
    if not isinstance(content, dict):
        raise ModelRejected(f"{file.name} holds no JSON object. {AGAIN}")
    return content


def read_config(folder: Path) -> Any:
    """The configuration in a folder, as its family's class has it.

    Raises ModelRejected where it is of no family, or asks for what is not served.
    """
    if (folder / "adapter_config.json").is_file():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "its base model"
        raise ModelRejected(
            f"it holds an adapter (adapter_config.json). Serve {base} as the model, and add the adapter with `overtone "
            "adapters add`; or delete that file where the folder is a whole model."
        )
    content = read_json(folder / CONFIG)
    family = _family(content)
    try:
        config = family.config_class().from_dict({k: v for k, v in content.items() if k != "quantization_config"})
        layers = config.text_config.num_hidden_layers, config.audio_config.num_hidden_layers
        kinds = set(config.text_config.layer_types or ())
    except Exception as error:  # transformers' checks raise errors of many kinds
        raise ModelRejected(f"{CONFIG} cannot be used: {_first_line(error)}") from None
    if kinds - {"full_attention"}:
        raise ModelRejected(f"{CONFIG} asks for {', '.join(sorted(kinds))}; Overtone has full attention alone.")
    if not all(0 < count < 1000 for count in layers):
        raise ModelRejected(f"{CONFIG} asks for {layers[0]} and {layers[1]} layers, which no such model has.")
    return config


def _family(content: dict[str, Any]) -> ModelFamily:
    """The family of a configuration. Refuses one of another model, or of weights that lie in another form."""
    found, architectures = content.get("model_type"), content.get("architectures")
    family = families().get(found) if isinstance(found, str) else None
    if family is None:
        known = ", ".join(map(repr, families()))
        raise ModelRejected(f"{CONFIG} is of model_type {found!r}; Overtone serves {known}. Name such a model.")
    if architectures and family.architecture not in architectures:
        raise ModelRejected(f"{CONFIG} is of the architecture {architectures}; Overtone serves {family.architecture}.")
    for part, expected in family.config_parts.items():
        within = content.get(part)
        if not isinstance(within, dict):
            raise ModelRejected(f"{CONFIG} has no {part}. {AGAIN}")
        if within.get("model_type", expected) != expected:
            raise ModelRejected(f"{part} in {CONFIG} is of model_type {within['model_type']!r}, not {expected!r}.")
    if declared := content.get("quantization_config"):
        check_quantization(declared, CONFIG)
    if "transformers_weights" in content:
        raise ModelRejected(f"{CONFIG} names weights of its own (transformers_weights); name them model.safetensors.")
    return family


def base_of(config: Any) -> tuple[str, str] | None:
    """Name and fingerprint of the checkpoint that `overtone quantize` made this one of; None for any other."""
    made_of = getattr(config, BASE, None)
    if not isinstance(made_of, dict):
        return None
    name, fingerprint = made_of.get("name"), made_of.get("fingerprint")
    return (name[:200], fingerprint[:200]) if isinstance(name, str) and isinstance(fingerprint, str) else None


def ties_head(config: Any) -> bool:
    """True if the configuration says that `lm_head` is the embedding."""
    parts = (config, config.text_config)
    return any(getattr(part, "tie_word_embeddings", False) for part in parts)


def on_meta(config: Any) -> Any:
    """The model's modules on the device `meta`, that is, without weights. Raises ModelRejected."""
    model_class = family_of(config).model_class()
    try:
        with torch.device("meta"):
            return model_class(config)
    except Exception as error:  # any value that does not go with the others
        raise ModelRejected(f"{CONFIG} cannot be used: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:200] if lines else type(error).__name__
