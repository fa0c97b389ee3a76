"""The configuration of a base model: read from its folder, refused where it is another model's."""

import json
from pathlib import Path
from typing import Any

import torch

from app.errors import ModelRejected
from app.model.safetensors_header import AGAIN, refuse_pointer

MODEL_TYPE = "qwen2_audio"
ARCHITECTURE = "Qwen2AudioForConditionalGeneration"
_PARTS = {"audio_config": "qwen2_audio_encoder", "text_config": "qwen2"}
CONFIG = "config.json"


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
    """The `Qwen2AudioConfig` of a folder. Raises ModelRejected where it is none, or what it asks for is not served."""
    from transformers import Qwen2AudioConfig

    if (folder / "adapter_config.json").is_file():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "its base model"
        raise ModelRejected(
            f"it holds an adapter (adapter_config.json). Serve {base} as the model, and add the adapter with `overtone "
            "adapters add`; or delete that file where the folder is a whole model."
        )
    content = read_json(folder / CONFIG)
    _refuse_others(content)
    try:
        config = Qwen2AudioConfig.from_dict(content)
        layers = config.text_config.num_hidden_layers, config.audio_config.encoder_layers
        kinds = set(config.text_config.layer_types or ())
    except Exception as error:  # transformers' checks raise errors of many kinds
        raise ModelRejected(f"{CONFIG} cannot be used: {_first_line(error)}") from None
    if kinds - {"full_attention"}:
        raise ModelRejected(f"{CONFIG} asks for {', '.join(sorted(kinds))}; Overtone has full attention alone.")
    if not all(0 < count < 1000 for count in layers):
        raise ModelRejected(f"{CONFIG} asks for {layers[0]} and {layers[1]} layers, which no such model has.")
    return config


def _refuse_others(content: dict[str, Any]) -> None:
    """Refuse a configuration of another model, or of weights that lie in another form."""
    found, architectures = content.get("model_type"), content.get("architectures")
    if found != MODEL_TYPE:
        raise ModelRejected(f"{CONFIG} is of model_type {found!r}; Overtone serves {MODEL_TYPE!r}. Name such a model.")
    if architectures and ARCHITECTURE not in architectures:
        raise ModelRejected(f"{CONFIG} is of the architecture {architectures}; Overtone serves {ARCHITECTURE}.")
    for part, expected in _PARTS.items():
        within = content.get(part)
        if not isinstance(within, dict):
            raise ModelRejected(f"{CONFIG} has no {part}. {AGAIN}")
        if within.get("model_type", expected) != expected:
            raise ModelRejected(f"{part} in {CONFIG} is of model_type {within['model_type']!r}, not {expected!r}.")
    if quantized := content.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        raise ModelRejected(f"{CONFIG} declares quantized weights ({method}); name the model in full precision.")
    if "transformers_weights" in content:
        raise ModelRejected(f"{CONFIG} names weights of its own (transformers_weights); name them model.safetensors.")


def ties_head(config: Any) -> bool:
    """Whether the configuration says that `lm_head` is the embedding. transformers never ties this architecture."""
    parts = (config, config.text_config)
    return any(getattr(part, "tie_word_embeddings", False) for part in parts)


def on_meta(config: Any) -> Any:
    """The model's modules on the device `meta`, that is, without weights. Raises ModelRejected."""
    from transformers import Qwen2AudioForConditionalGeneration

    try:
        with torch.device("meta"):
            return Qwen2AudioForConditionalGeneration(config)
    except Exception as error:  # any value that does not go with the others
        raise ModelRejected(f"{CONFIG} cannot be used: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:200] if lines else type(error).__name__
