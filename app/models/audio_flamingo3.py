"""Audio Flamingo 3 (Goel et al., 2025): Qwen2-Audio's tower, a projector of two layers, Qwen2 with grouped queries.

Its windows of a long recording share one span of audio tokens in the prompt. The released weights are licensed for
non-commercial use.
"""

from collections.abc import Mapping
from typing import Any

import torch

from app.models.audio_tower import PooledWhisper
from app.models.family import AudioTower, FullSize, PromptFormat, Targets
from app.models.qwen2 import QWEN2, ChatML

_PLACEHOLDER = "<sound>"
# The released model's dimensions
_EIGHT_B = FullSize(
    "nvidia/audio-flamingo-3-hf",
    {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 151672,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": False,
    },
)
# For random weights alone: like the released one, a turn's recording comes before its text
_TEMPLATE = """
{%- for turn in messages -%}
<|im_start|>{{ turn.role }}
{% if turn.content is string %}{{ turn.content }}{% else -%}
{%- if turn.content | selectattr("type", "equalto", "audio") | list -%}<sound>{%- endif -%}
{%- for part in turn.content if part.type == "text" -%}{{ part.text }}{%- endfor -%}
{%- endif -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""


class AudioFlamingo3:
    """See `ModelFamily`."""

    model_type = "audioflamingo3"
    architecture = "AudioFlamingo3ForConditionalGeneration"
    config_parts: Mapping[str, str] = {"audio_config": "audioflamingo3_encoder", "text_config": "qwen2"}
    processor = "AudioFlamingo3Processor"
    title = "Audio Flamingo 3"
    tower: AudioTower = PooledWhisper()
    joins_windows = True
    prompt: PromptFormat = ChatML()
    language_model = QWEN2
    targets = Targets()
    sizes: Mapping[str, FullSize] = {"audio-flamingo-3-8b": _EIGHT_B}

    def config_class(self) -> Any:
        """As `ModelFamily.config_class`."""
        from transformers import AudioFlamingo3Config

        return AudioFlamingo3Config

    def model_class(self) -> Any:
        """As `ModelFamily.model_class`."""
        from transformers import AudioFlamingo3ForConditionalGeneration

        return AudioFlamingo3ForConditionalGeneration

    def extractor_fields(self, config: Any) -> Mapping[str, int]:
        """As `ModelFamily.extractor_fields`."""
        audio = config.audio_config
        return {"feature_size": audio.num_mel_bins, "nb_max_frames": 2 * audio.max_source_positions}

    def inputs(self, mels: torch.Tensor, valid: torch.Tensor) -> dict[str, torch.Tensor]:
        """As `ModelFamily.inputs`."""
        return {"input_features": mels, "input_features_mask": valid}

    def random_config(self, text: Mapping[str, Any], tokenizer: Any | None = None) -> Any:
        """As `ModelFamily.random_config`; adds the audio token to a tokenizer that lacks it."""
        fields = {}
        if tokenizer is not None:
            tokenizer.add_special_tokens({"additional_special_tokens": [_PLACEHOLDER]}, False)
            fields["audio_token_id"] = tokenizer.convert_tokens_to_ids(_PLACEHOLDER)
        parts = self.config_parts
        return self.config_class()(
            audio_config={"model_type": parts["audio_config"]},
            text_config={"model_type": parts["text_config"], **text},
            **fields,
        )

    def random_processor(self, tokenizer: Any, config: Any) -> Any:
        """As `ModelFamily.random_processor`."""
        from transformers import AudioFlamingo3Processor, WhisperFeatureExtractor

        audio = config.audio_config
        extractor = WhisperFeatureExtractor(feature_size=audio.num_mel_bins, return_attention_mask=True)
        return AudioFlamingo3Processor(extractor, tokenizer, chat_template=_TEMPLATE)


AUDIO_FLAMINGO_3 = AudioFlamingo3()
