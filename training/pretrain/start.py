"""The untrained start: Whisper's tower and, as Qwen2 layers, Whisper's decoder, with a small vocabulary."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from training.pretrain import folder, layout, states, transplant, vocabulary, whisper
from training.pretrain.speech.voices import Wave
from training.pretrain.text.corpus import Line
from training.pretrain.text.tasks import TASKS
from training.pretrain.text.wording import NATO

TOKENS = 8192


def build(lines: list[Line], tower: Path, clips: list[tuple[Wave, str]], target: Path, size: int = TOKENS) -> None:
    """Write a complete folder; `clips` with their words show which states Whisper's decoder goes through."""
    tokenizer = vocabulary.cut((line.text for line in lines if line.language == "en"), _always(lines), size)
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=folder.WINDOW_S)
    processor = Qwen2AudioProcessor(extractor, tokenizer, chat_template=folder.CHAT_TEMPLATE)
    ids = tokenizer.convert_tokens_to_ids
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    torch.manual_seed(0)
    text = transplant.config(len(tokenizer), end, pad)
    audio = Qwen2AudioEncoderConfig(
        d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536,
        num_mel_bins=128, max_source_positions=50 * folder.WINDOW_S,
    )  # fmt: skip
    model = Qwen2AudioForConditionalGeneration(
        Qwen2AudioConfig(
            audio_config=audio, text_config=text, audio_token_index=ids("<|AUDIO|>"), tie_word_embeddings=False
        )
    )
    model.model.audio_tower.load_state_dict(load_file(tower))
    model.generation_config.update(eos_token_id=[end, pad], pad_token_id=pad, bos_token_id=pad, do_sample=False)
    source = whisper.load()
    heard = model.model.audio_tower.eval()
    written = vocabulary.source_tokenizer()
    seen = states.collect(
        source,
        [states.encode(heard, processor, samples) for samples, _ in clips],
        [written.encode(f" {text.capitalize()}.", add_special_tokens=False).ids for _, text in clips],
    )
    rows = layout.Rows(sink=ids(vocabulary.MARK), begin=ids(vocabulary.START))
    transplant.Transplant(source, seen).fill(
        model.model.language_model, model.lm_head, model.model.multi_modal_projector.linear, rows,
        vocabulary.origins(tokenizer),
    )  # fmt: skip
    folder.save(model, processor, target)


def _always(lines: list[Line]) -> list[str]:
    """Texts whose tokens are kept whatever the size: prompts, frames, signs, numbers, names of letters."""
    prompts = [f"{phrase}\n" for task in TASKS for phrase in task.phrasings]
    frames = [json.dumps(line.frame) for line in lines if len(line.frame) > 1][:3000]
    chat = [f"system\n{folder.SYSTEM}\n", "user\nAudio 1: ", "assistant\n"] * 100
    numbers = [str(number) for number in range(101)] + [f" {number}" for number in range(101)]
    letters = [sign for letter in NATO for sign in (letter, f" {letter}")]
    return [*chat, *prompts, *frames, *numbers, *letters, *NATO.values(), " ".join(["x", *NATO.values()])]
