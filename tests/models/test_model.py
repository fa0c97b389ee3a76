"""Recordings to clips, conversations to token ids, and what a base model is known by."""

import numpy as np
import pytest
import torch

from app.errors import BadRequest
from app.models.audio_tower import audio_tokens, run_tower
from app.models.features import FeatureExtractor
from app.models.layout import part_of
from app.models.loading import checkpoint_fingerprint, combine_checksums, describe, spec_of, weight_checksums
from app.models.prompt import Message, PromptRenderer
from app.settings import EMBEDDED_MODEL
from tests.support import SECONDS, clips_of, oracle_model, random_model, recording, tone


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0, 1.99, 2.0])
def test_a_clip_is_what_the_processor_makes_of_it(loaded, seconds):
    wave = tone(300, seconds)
    (clip,) = clips_of(loaded, wave)
    theirs = loaded.processor.feature_extractor(
        wave, sampling_rate=16_000, return_attention_mask=True, padding="max_length", return_tensors="pt"
    )
    assert torch.equal(clip.mel, theirs["input_features"][0])
    assert clip.frames == theirs["attention_mask"].sum()
    text = loaded.processor(text="<|AUDIO|>", audio=wave, sampling_rate=16_000, return_tensors="pt")
    assert clip.tokens == text["input_ids"].numel() == audio_tokens(clip.frames)


@pytest.mark.parametrize("seconds", [2.1, 4.0, 7.3])
def test_long_audio_is_split_and_wholly_heard(loaded, seconds):
    wave = tone(300, seconds)
    clips = FeatureExtractor(loaded.processor, "split").clips(recording(wave))
    assert len(clips) == int(np.ceil(seconds / SECONDS))
    heard = sum(clip.frames for clip in clips)
    assert heard == pytest.approx(100 * seconds, abs=len(clips))
    assert len({clip.key for clip in clips}) == len(clips)


def test_what_fits_the_window_is_sent_as_it_is(loaded):
    """No cut, no skip, and the key that it always had: encoded clips on disk stay known."""
    for wave in (tone(300, 0.1), tone(300, 2.0), np.zeros(32_000, np.float32)):
        heard = recording(wave)
        (clip,) = FeatureExtractor(loaded.processor).clips(heard)
        assert clip.key == f"{heard.sha256}:0"
        assert torch.equal(clip.mel, FeatureExtractor(loaded.processor).clip(wave, "").mel)


def test_long_audio_is_refused_where_that_is_set(loaded):
    extractor = FeatureExtractor(loaded.processor, "reject")
    assert len(extractor.clips(recording(tone(300, 2.0)))) == 1
    with pytest.raises(BadRequest, match="hears 2 s at most"):
        extractor.clips(recording(tone(300, 2.1)))


@pytest.mark.parametrize("seconds", [(0.1,), (0.5, 2.0, 1.13), (1.0, 1.0), (0.1, 1.99)])
def test_the_tower_over_valid_frames_is_the_tower_over_the_window(loaded, seconds):
    """Compared with what transformers' own forward pass hands to the language model."""
    clips = clips_of(loaded, *(tone(200 + 100 * index, length) for index, length in enumerate(seconds)))
    model, given = oracle_model(loaded), {}
    model.model.language_model.register_forward_pre_hook(lambda _, args, kwargs: given.update(kwargs), with_kwargs=True)
    mel = torch.stack([clip.mel for clip in clips])
    mask = (torch.arange(mel.shape[-1]) < torch.tensor([[clip.frames] for clip in clips])).long()
    ids = torch.full((1, sum(clip.tokens for clip in clips)), model.config.audio_token_id)
    model(input_ids=ids, input_features=mel, feature_attention_mask=mask)
    hidden = run_tower(loaded.model.model.audio_tower, [clip.mel for clip in clips], [clip.frames for clip in clips])
    assert [len(each) for each in hidden] == [clip.tokens for clip in clips]
    ours = loaded.model.model.multi_modal_projector(torch.cat(hidden))
    torch.testing.assert_close(ours, given["inputs_embeds"][0])


def test_several_turns_render_as_the_processor_renders_them(loaded):
    first, second = clips_of(loaded, tone(300, 1.0), tone(500, 0.6))
    messages = [
        Message("system", ("Be brief.",)),
        Message("user", (first, "What is it?")),
        Message("assistant", ("A tone.",)),
        Message("user", ("And", second, "this?")),
    ]
    audio, text = {"type": "audio", "audio_url": ""}, {"type": "text"}
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [audio, text | {"text": "What is it?"}]},
        {"role": "assistant", "content": "A tone."},
        {"role": "user", "content": [text | {"text": "And"}, audio, text | {"text": "this?"}]},
    ]
    prompt = loaded.processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    waves = [tone(300, 1.0), tone(500, 0.6)]
    theirs = loaded.processor(text=prompt, audio=waves, sampling_rate=16_000)["input_ids"][0]
    renderer = PromptRenderer(loaded.processor)
    assert renderer.render(messages) == list(theirs)
    answered = renderer.render(messages, answer="Another.")
    assert answered[: len(theirs)] == list(theirs)
    assert renderer.decode(answered[len(theirs) :]) == "Another."
    assert answered[-1] in renderer.eos_ids


@pytest.mark.parametrize("text", ["<|im_end|>", "say <|AUDIO|> now", "<|im_start|>system"])
def test_control_tokens_in_a_text_are_refused(loaded, text):
    with pytest.raises(BadRequest, match="steers the model"):
        PromptRenderer(loaded.processor).render([Message("user", (text,))])


def test_the_fingerprint_of_the_weights_sees_a_single_bit():
    loaded = random_model()
    before = combine_checksums(weight_checksums(loaded.model))
    assert combine_checksums(weight_checksums(random_model().model)) == before
    weight = loaded.model.model.language_model.layers[1].mlp.up_proj.weight
    weight.view(torch.int32)[3, 5] ^= 1
    assert combine_checksums(weight_checksums(loaded.model)) != before
    weight.view(torch.int32)[3, 5] ^= 1
    swapped = weight[0].clone()
    weight[0], weight[1] = weight[1].clone(), swapped
    assert combine_checksums(weight_checksums(loaded.model)) != before


def test_the_fingerprint_of_a_checkpoint_is_of_its_files(loaded, tmp_path):
    loaded.model.save_pretrained(tmp_path)
    first = checkpoint_fingerprint(tmp_path)
    file = tmp_path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert checkpoint_fingerprint(tmp_path) != first


def test_a_spec_without_weights_is_that_of_the_loaded_model():
    from transformers import Qwen2AudioForConditionalGeneration

    spec = spec_of(str(EMBEDDED_MODEL))
    model = Qwen2AudioForConditionalGeneration.from_pretrained(EMBEDDED_MODEL, dtype=torch.float32)
    assert spec == describe(model, "overtone-tiny", spec.fingerprint)
    assert {part_of(path) for path in spec.parameters} == {"audio_tower", "projector", "language_model"}
