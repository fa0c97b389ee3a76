"""Qwen2-Audio at real dimensions with random weights: the speed of the real model without its download."""

from typing import Any

import torch

from app.errors import BadRequest, ModelRejected
from app.model.base import LoadedModel, describe

# Qwen/Qwen2-Audio-7B-Instruct's config.json; the audio side's are the configuration class's defaults
SIZES: dict[str, dict[str, Any]] = {
    "7b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "intermediate_size": 11008,
        "vocab_size": 156032,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
}

RANDOM = "random:"  # before a name of `SIZES` in place of a model's
FULL_SIZE = {"Qwen/Qwen2-Audio-7B-Instruct": "7b", "7b": "7b"}  # models whose dimensions are shipped


def config_of(size: str, **fields: Any) -> Any:
    """The `Qwen2AudioConfig` of `SIZES[size]`."""
    from transformers import Qwen2AudioConfig

    return Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder"},
        text_config={"model_type": "qwen2", **SIZES[size]},
        tie_word_embeddings=False,
        **fields,
    )


def random_weights(size: str, tokenizer_from: str, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """A model of `SIZES[size]` on ``device``; text goes through the tokenizer of the model ``tokenizer_from``.

    Raises BadRequest for a size that is not known, ModelRejected for a tokenizer that cannot be read.
    """
    if size not in SIZES:
        raise BadRequest(f"There are no dimensions named {size!r}; known: {', '.join(SIZES)}.")
    from transformers import (
        AutoTokenizer,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_from, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise errors of many kinds
        why = " ".join(str(error).split())[:200]
        raise ModelRejected(f"The tokenizer of {tokenizer_from} cannot be read: {why}") from None
    audio_token = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    config = config_of(size, audio_token_id=audio_token, audio_token_index=audio_token)
    extractor = WhisperFeatureExtractor(feature_size=config.audio_config.num_mel_bins, chunk_length=30)
    processor = Qwen2AudioProcessor(extractor, tokenizer, chat_template=tokenizer.chat_template)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen2AudioForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.eval().requires_grad_(False)
    name = f"random-{size}"
    return LoadedModel(model, processor, describe(model, name, name))
