"""Qwen2-Audio (Chu et al., 2024): Whisper's tower with an average pool, one linear projector, Qwen2."""

from collections.abc import Mapping
from typing import Any

import torch

from app.models.audio_tower import PooledWhisper
from app.models.family import AudioTower, FullSize, PromptFormat, Targets
from app.models.qwen2 import QWEN2, ChatML

_PLACEHOLDER = "<|AUDIO|>"
# config.json of the released model
_SEVEN_B = FullSize(
    "Qwen/Qwen2-Audio-7B-Instruct",
    {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "intermediate_size": 11008,
        "vocab_size": 156032,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
)


class Qwen2Audio:
    """See `ModelFamily`."""

    model_type = "qwen2_audio"
    architecture = "Qwen2AudioForConditionalGeneration"
    config_parts: Mapping[str, str] = {"audio_config": "qwen2_audio_encoder", "text_config": "qwen2"}
    processor = "Qwen2AudioProcessor"
    title = "Qwen2-Audio"
    tower: AudioTower = PooledWhisper()
    joins_windows = False
    prompt: PromptFormat = ChatML()
    language_model = QWEN2
    targets = Targets()
    sizes: Mapping[str, FullSize] = {"7b": _SEVEN_B}

    def config_class(self) -> Any:
        """As `ModelFamily.config_class`."""
        from transformers import Qwen2AudioConfig

        return Qwen2AudioConfig

    def model_class(self) -> Any:
        """As `ModelFamily.model_class`."""
        from transformers import Qwen2AudioForConditionalGeneration

        return Qwen2AudioForConditionalGeneration

    def extractor_fields(self, config: Any) -> Mapping[str, int]:
        """As `ModelFamily.extractor_fields`."""
        audio = config.audio_config
        return {"feature_size": audio.num_mel_bins, "nb_max_frames": 2 * audio.max_source_positions}

    def inputs(self, mels: torch.Tensor, valid: torch.Tensor) -> dict[str, torch.Tensor]:
        """As `ModelFamily.inputs`."""
        return {"input_features": mels, "feature_attention_mask": valid}

    def random_config(self, text: Mapping[str, Any], tokenizer: Any | None = None) -> Any:
        """As `ModelFamily.random_config`."""
        fields = {}
        if tokenizer is not None:
            fields = dict.fromkeys(
                ("audio_token_id", "audio_token_index"), tokenizer.convert_tokens_to_ids(_PLACEHOLDER)
            )
        parts = self.config_parts
        return self.config_class()(
            audio_config={"model_type": parts["audio_config"]},
            text_config={"model_type": parts["text_config"], **text},
            tie_word_embeddings=False,
            **fields,
        )

    def random_processor(self, tokenizer: Any, config: Any) -> Any:
        """As `ModelFamily.random_processor`."""
        from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

        extractor = WhisperFeatureExtractor(feature_size=config.audio_config.num_mel_bins, chunk_length=30)
        return Qwen2AudioProcessor(extractor, tokenizer, chat_template=tokenizer.chat_template)


QWEN2_AUDIO = Qwen2Audio()
