"""Audio Flamingo 3 from its Hub layout: weights, prompts and windows are those of plain transformers."""

from pathlib import Path

import pytest
import torch
from transformers import AudioFlamingo3ForConditionalGeneration

from app.errors import BadRequest
from app.models.features import FeatureExtractor, PackedClip
from app.models.layout import audio_tower
from app.models.loading import LoadedModel, load
from app.models.prompt import Message, PromptRenderer
from app.models.weights.random_weights import config_of, random_weights, size_of
from app.settings import EMBEDDED_MODEL
from tests.flamingo import hub_folder, random_flamingo
from tests.support import SECONDS, recording, tone

pytestmark = pytest.mark.slow

# Short, to the sample as long as windows, a last window that has no token of its own, and one that has one
LENGTHS = (0.4, SECONDS, 2.5 * SECONDS, 2 * SECONDS, 2 * SECONDS + 0.02, 2 * SECONDS + 0.03, 4.31 * SECONDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub_folder(random_flamingo(), tmp_path_factory.mktemp("hub") / "af3")


@pytest.fixture(scope="module")
def flamingo(folder: Path) -> LoadedModel:
    return load(str(folder), torch.device("cpu"), torch.float32)


def test_weights_are_those_of_from_pretrained(folder: Path, flamingo: LoadedModel) -> None:
    plain = AudioFlamingo3ForConditionalGeneration.from_pretrained(str(folder)).state_dict()
    ours = flamingo.model.state_dict()
    original = random_flamingo().model.state_dict()
    assert plain.keys() == ours.keys()
    assert all(torch.equal(plain[path], ours[path]) for path in plain)
    assert all(torch.equal(original[path], ours[path]) for path in original)
    assert flamingo.family.model_type == "audioflamingo3"
    assert flamingo.spec.tower_width == 32


@pytest.mark.parametrize("seconds", LENGTHS)
def test_prompt_and_embeddings_are_transformers_own(flamingo: LoadedModel, seconds: float) -> None:
    wave = tone(200, seconds)
    features = FeatureExtractor(flamingo.processor)
    clips = features.clips(recording(wave))
    ids = PromptRenderer(flamingo.processor).render([Message("user", (*clips, "What is it?"))])
    content = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": "What is it?"}]
    text = flamingo.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    wanted = flamingo.processor(text=text, audio=[wave], sampling_rate=16_000, return_tensors="pt")
    assert ids == wanted["input_ids"][0].tolist()
    with torch.no_grad():
        plain = flamingo.model.get_audio_features(
            wanted["input_features"], wanted["input_features_mask"], return_dict=True
        ).pooler_output
        hidden = flamingo.family.tower.run(
            audio_tower(flamingo.model), [clip.mel for clip in clips], [clip.frames for clip in clips]
        )
        ours = flamingo.model.model.multi_modal_projector(torch.cat(hidden))
    torch.testing.assert_close(ours, plain.reshape(ours.shape), atol=1e-5, rtol=1e-5)
    assert [PackedClip.of(clip).unpack(features).joined for clip in clips] == [index > 0 for index in range(len(clips))]


def test_a_second_recording_in_a_turn_is_refused_since_the_template_has_no_place_for_it(flamingo: LoadedModel) -> None:
    features = FeatureExtractor(flamingo.processor)
    one, other = (features.clips(recording(tone(pitch, 0.5))) for pitch in (200, 300))
    renderer = PromptRenderer(flamingo.processor)
    with pytest.raises(BadRequest, match="one recording per turn"):
        renderer.render([Message("user", (*one, *other, "Compare."))])
    turns = [Message("user", (*one, "First?")), Message("assistant", ("A.",)), Message("user", (*other, "Second?"))]
    ids = renderer.render(turns)
    assert ids.count(flamingo.model.config.audio_token_id) == one[0].tokens + other[0].tokens


def test_a_transcript_is_made_of_clips_of_their_own(flamingo: LoadedModel) -> None:
    """Each is a prompt of its own there, so they are cut in pauses."""
    features = FeatureExtractor(flamingo.processor)
    made = recording(tone(200, 2.5 * SECONDS))
    assert len(features.cut(made, transcript=True).spans) > 1
    assert features.cut(made, transcript=True).spans != features.cut(made).spans


def test_full_size_has_the_released_dimensions() -> None:
    assert size_of("nvidia/audio-flamingo-3-hf") == "audio-flamingo-3-8b"
    text = config_of("audio-flamingo-3-8b").text_config
    assert (text.hidden_size, text.num_hidden_layers, text.num_key_value_heads) == (3584, 28, 4)
    assert text.rope_parameters["rope_theta"] == 1e6


def test_random_weights_render_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.models.audio_flamingo3 import AUDIO_FLAMINGO_3

    full = AUDIO_FLAMINGO_3.sizes["audio-flamingo-3-8b"]
    small = dict(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64
    )
    monkeypatch.setitem(
        AUDIO_FLAMINGO_3.sizes, "small", type(full)(full.hub, {**full.text, **small, "intermediate_size": 64})
    )  # type: ignore[arg-type]
    from transformers import AudioFlamingo3EncoderConfig

    monkeypatch.setattr(AudioFlamingo3EncoderConfig, "num_hidden_layers", 1)
    loaded = random_weights("small", str(EMBEDDED_MODEL), torch.device("cpu"), torch.float32)
    (clip,) = FeatureExtractor(loaded.processor).clips(recording(tone(200, 1.0)))
    ids = PromptRenderer(loaded.processor).render([Message("user", (clip, "What is it?"))])
    assert ids.count(loaded.model.config.audio_token_id) == clip.tokens == 25
