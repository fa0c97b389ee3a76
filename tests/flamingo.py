"""Small random Audio Flamingo 3 models, made with plain transformers, and their folder as the Hub has it."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    WhisperFeatureExtractor,
)

from app.models.loading import LoadedModel
from tests.support import SECONDS, drawn, random_processor, text_config

# As the released processor's: a system message where there is none, the recording before the text
TEMPLATE = """
{%- if messages[0].role != "system" %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif -%}
{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.content is string %}{{ m.content }}{% else -%}
{%- if "audio" in m.content | map(attribute="type") | list -%}<sound>{%- endif -%}
{%- for c in m.content if c.type == "text" -%}{{ c.text }}{%- endfor -%}
{%- endif -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""


def random_flamingo_processor() -> AudioFlamingo3Processor:
    """Bytes as tokens, Qwen2's control tokens, `<sound>`, windows of two seconds."""
    tokenizer = random_processor().tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<sound>"]}, False)
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=SECONDS, return_attention_mask=True)
    return AudioFlamingo3Processor(extractor, tokenizer, chat_template=TEMPLATE, max_audio_len=20 * SECONDS)


def random_flamingo(seed: int = 0, **text: Any) -> LoadedModel:
    """A random model, grouped queries, whose greedy answers vary with prompt, audio and adapter."""
    torch.manual_seed(seed)
    processor = random_flamingo_processor()
    config = AudioFlamingo3Config(
        audio_config=dict(
            model_type="audioflamingo3_encoder",
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            num_mel_bins=128,
            max_source_positions=SECONDS * 50,
        ),
        text_config=text_config(processor, **text),
        audio_token_id=processor.tokenizer.convert_tokens_to_ids("<sound>"),
    )
    return drawn(AudioFlamingo3ForConditionalGeneration(config), processor)


def hub_folder(loaded: LoadedModel, folder: Path) -> Path:
    """The model's folder with tensors named as the Hub's: `language_model.model.layers`, `language_model.lm_head`."""
    loaded.model.save_pretrained(str(folder))
    loaded.processor.save_pretrained(str(folder))
    names = {}
    for path, tensor in loaded.model.state_dict().items():
        name = path.removeprefix("model.")
        if path.startswith("model.language_model."):
            name = f"language_model.model.{path.removeprefix('model.language_model.')}"
        elif path.startswith("lm_head."):
            name = f"language_model.{path}"
        names[name] = tensor.contiguous()
    file = folder / "model.safetensors"
    assert len(load_file(file)) == len(names)
    save_file(names, file, metadata={"format": "pt"})
    return folder
