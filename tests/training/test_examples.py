"""What is supervised, and that training asks exactly as the server does."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import Qwen2AudioForConditionalGeneration

from app.models.loading import LoadedModel
from app.models.prompt import PromptRenderer
from training.answers import Answerer
from training.audio_features import AudioFeatures
from training.data.rows import Row, Sound, Turn
from training.examples import Example, make_examples
from training.methods.forward import Forward, supervised


@pytest.fixture
def chat(tmp_path: Path) -> Row:
    """A system turn, two questions with a recording each, two answers."""
    for number in range(2):
        noise = np.random.default_rng(number).standard_normal(16_000 + 4_000 * number)
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * noise, 16_000)
    turns = (
        Turn("system", "Be brief."),
        Turn("user", "<audio>What is it?"),
        Turn("assistant", "rain on a roof"),
        Turn("user", "And <audio> this?"),
        Turn("assistant", "wind"),
    )
    return Row(turns, tuple(Sound(f"{n}.wav", tmp_path / f"{n}.wav") for n in range(2)), None, "chat:1")


def processed(loaded: LoadedModel, row: Row) -> dict[str, torch.Tensor]:
    """A row's prompt as transformers' own processor makes it."""
    conversation = []
    for turn in row.turns[:-1]:
        content = []
        for index, text in enumerate(turn.text.split("<audio>")):
            content += [{"type": "audio", "audio_url": ""}] if index else []
            content += [{"type": "text", "text": text}] if text else []
        plain = len(content) == 1 and content[0]["type"] == "text"
        conversation.append({"role": turn.role, "content": content[0]["text"] if plain else content})
    text = loaded.processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    waves = [soundfile.read(sound.path, dtype="float32")[0] for sound in row.sounds]
    return dict(loaded.processor(text=text, audio=waves, sampling_rate=16_000, return_tensors="pt"))


def test_answers_and_their_ends_are_supervised_and_nothing_else(
    fresh: LoadedModel, audio_features: AudioFeatures, chat: Row
) -> None:
    (example,) = make_examples([chat], audio_features, PromptRenderer(fresh.processor))
    tokenizer = fresh.processor.tokenizer
    assert (
        tokenizer.decode([example.ids[place] for place in example.labels]) == "rain on a roof<|im_end|>wind<|im_end|>"
    )
    assert tokenizer.decode(example.ids[max(example.labels) + 1 :]) == ""
    assert tokenizer.decode(example.prompt).endswith("<|im_start|>assistant\n")


def test_prompt_is_the_processors_own(fresh: LoadedModel, audio_features: AudioFeatures, chat: Row) -> None:
    (example,) = make_examples([chat], audio_features, PromptRenderer(fresh.processor))
    asked = processed(fresh, chat)
    assert list(example.prompt) == asked["input_ids"][0].tolist()


def test_loss_is_transformers_own(fresh: LoadedModel, audio_features: AudioFeatures, chat: Row) -> None:
    (example,) = make_examples([chat], audio_features, PromptRenderer(fresh.processor))
    asked = processed(fresh, chat)
    ids = torch.tensor([example.ids])
    labels = torch.full_like(ids, -100)
    labels[0, list(example.labels)] = ids[0, list(example.labels)]
    model: Qwen2AudioForConditionalGeneration = fresh.model
    with torch.no_grad():
        theirs = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            input_features=asked["input_features"],
            feature_attention_mask=asked["feature_attention_mask"],
            labels=labels,
        ).loss
        ours = Forward(model, audio_features).loss([example]) / supervised([example])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_loss_of_a_batch_is_the_sum_of_its_rows(
    fresh: LoadedModel, audio_features: AudioFeatures, examples: list[Example]
) -> None:
    forward = Forward(fresh.model, audio_features)
    with torch.no_grad():
        alone = sum(float(forward.loss([example])) for example in examples[:6])
        torch.testing.assert_close(float(forward.loss(examples[:6])), alone, rtol=1e-5, atol=1e-3)


def test_answers_are_those_of_generate_alone(
    fresh: LoadedModel, audio_features: AudioFeatures, chat: Row, tones: Path
) -> None:
    renderer = PromptRenderer(fresh.processor)
    rows = [chat, Row((*chat.turns[:2], chat.turns[4]), chat.sounds[:1], None, "chat:2")]
    answers = Answerer(Forward(fresh.model, audio_features), renderer, 12).answer(
        make_examples(rows, audio_features, renderer)
    )
    for row, answer in zip(rows, answers, strict=True):
        asked = processed(fresh, row)
        eos = sorted(renderer.eos_ids)
        written = fresh.model.generate(
            **asked, max_new_tokens=12, do_sample=False, eos_token_id=eos, pad_token_id=eos[0]
        )
        assert answer == renderer.decode(written[0, asked["input_ids"].shape[1] :].tolist()).strip()


def test_silence_changes_the_embeddings_of_the_audio_alone(
    fresh: LoadedModel, audio_features: AudioFeatures, examples: list[Example]
) -> None:
    forward = Forward(fresh.model, audio_features)
    ids = torch.tensor([examples[0].ids])
    with torch.no_grad():
        heard, silent = (forward.embed(ids, examples[:1], silent=silent) for silent in (False, True))
    differs = (heard != silent).any(-1)
    assert torch.equal(differs, ids == fresh.model.config.audio_token_id)
