"""The model folder: tokenizer, processor, configuration, and the untrained network.

The tower comes from Whisper tiny.en (see the model card); projector and language model start at
random. Prompts are Qwen2-Audio's own chat template.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperFeatureExtractor,
)

from app.models.weights.checkpoint import open_checkpoint
from training.pretrain.text.corpus import Line
from training.pretrain.text.tasks import TASKS
from training.pretrain.text.wording import NATO, spell_nato

VOCABULARY = 4096
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
SYSTEM = "You are a helpful assistant."
WINDOW_S = 10  # seconds the tower hears at once
CHAT_TEMPLATE = (
    "{% set audio_count = namespace(value=0) %}"
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\n" + SYSTEM + "<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}"
    "{% for content in message['content'] %}"
    "{% if 'audio' in content or 'audio_url' in content or content['type'] == 'audio' %}"
    "{% set audio_count.value = audio_count.value + 1 %}"
    "Audio {{ audio_count.value }}: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
    "{% elif 'text' in content %}{{ content['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(lines: list[Line]) -> PreTrainedTokenizerFast:
    """Train byte-level BPE on the lines, the prompts and the answers of the tasks and adapters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    prompts = [f"{phrase}\n" for task in TASKS for phrase in task.phrasings] * 30
    frames = [json.dumps(line.frame) for line in lines if len(line.frame) > 1][:5000]
    spelled = [spell_nato(line.text) for line in lines[:300]] + [" ".join(NATO.values())] * 100
    chat = [f"system\n{SYSTEM}\n", "user\nAudio 1: ", "assistant\n"] * 100
    numbers = [str(number) for number in range(101)] * 5
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [line.text for line in lines if line.language == "en"]
    starts = [f" {text}" for text in texts]  # a word is one token at the start and inside
    tokenizer.train_from_iterator([*texts, *starts, *prompts, *frames, *spelled, *chat, *numbers], trainer)
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106, a token of text
        pad_token="<|endoftext|>",  # noqa: S106, a token of text
        additional_special_tokens=SPECIAL,
        padding_side="left",
        model_max_length=2048,
    )


def build(lines: list[Line], tower: Path, target: Path) -> None:
    """Write a complete folder with an untrained language model."""
    tokenizer = train_tokenizer(lines)
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=WINDOW_S)
    processor = Qwen2AudioProcessor(extractor, tokenizer, chat_template=CHAT_TEMPLATE)
    torch.manual_seed(0)
    model = Qwen2AudioForConditionalGeneration(_config(tokenizer))
    model.model.audio_tower.load_state_dict(load_file(tower))
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config.update(eos_token_id=[end, pad], pad_token_id=pad, bos_token_id=pad, do_sample=False)
    save(model, processor, target)


def save(model: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, target: Path) -> None:
    """Write model (fp16) and processor as Transformers reads them; the model keeps its precision."""
    whole = [weight.detach().clone() for weight in model.parameters()]
    model.half().save_pretrained(target)
    processor.save_pretrained(target)
    processor.feature_extractor.save_pretrained(target)  # older readers look for its own file
    model.float()
    with torch.no_grad():
        for weight, before in zip(model.parameters(), whole, strict=True):
            weight.copy_(before)


def load(source: Path) -> tuple[Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor]:
    """Read a folder, in fp32. Raises ModelRejected for a damaged one."""
    open_checkpoint(str(source))
    model = Qwen2AudioForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    return model, Qwen2AudioProcessor.from_pretrained(source)


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen2AudioConfig:
    """Whisper tiny's tower with 128 mel bands and a 10 s window; a six-layer Qwen2 of width 384."""
    tower = Qwen2AudioEncoderConfig(
        d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536,
        num_mel_bins=128, max_source_positions=50 * WINDOW_S,
    )  # fmt: skip
    language = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=384, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=2, intermediate_size=1024, max_position_embeddings=2048,
        tie_word_embeddings=False, bos_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return Qwen2AudioConfig(
        audio_config=tower,
        text_config=language,
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        tie_word_embeddings=False,  # Qwen2-Audio keeps a head of its own
    )
