"""What the next model is taught with: other accents and manners, Whisper's expectations, weights in eight bits."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from training.pretrain import eight_bits, teacher, tune, whisper
from training.pretrain.evaluation import following
from training.pretrain.layout import HIDDEN, INNER
from training.pretrain.pool import IGNORE
from training.pretrain.speech import accents, manners
from training.pretrain.speech.synthesis import Record
from training.pretrain.text import announcements, exclamations, phrasings, tasks
from training.pretrain.text.wording import TENS, normalise

SIGNS = set(" ˈˌ.ɡbdfhijklmnpstuvwzæðŋɐɑɔəɛɜɪɹʃʊʌʒʤʧθTAIOWYᵊᵻ")
SAID = "wˌʌt ɐ bjˈuTəfəl θˈɪŋ ju hæv ˈOvəɹ ðˈɛɹ"


def test_accents_use_the_voices_own_sounds_and_differ() -> None:
    rng = random.Random(1)
    heard = {accents.accented(SAID, rng) for _ in range(200)}
    assert set("".join(heard)) <= SIGNS
    assert SAID in heard
    assert len(heard) > 50


def test_some_rules_of_an_accent() -> None:
    def only(rule: int) -> str:
        found, sound = accents._RULES[rule]
        return accents.re.sub(found, sound, SAID)

    assert only(0) == "wˌʌt ɐ bjˈuTəfəl θˈɪŋ ju hæv ˈOvə ðˈɛ"  # no r but before a vowel: "over" alone has none
    assert "tˈɪŋ" in only(3)
    assert "dˈɛɹ" in only(6)


@pytest.mark.parametrize("manner", manners.MANNERS)
def test_manners_keep_an_utterance_whole(manner: str) -> None:
    draw = np.random.default_rng(2)
    count = 120
    rows = [draw.standard_normal((601, count)).astype(np.float32) for _ in range(5)]
    f0 = np.where(np.arange(count) % 40 < 30, 180, 0).astype(np.float32)
    for seed in range(8):
        bent = manners.bend(manners.Parts(*rows, f0), manner, random.Random(seed))
        frames = len(bent.f0)
        assert count / 3 <= frames <= 3 * count
        assert all(
            getattr(bent, name).shape == (601, frames) for name in ("harmonic", "phase", "noise", "free", "angle")
        )
        assert all(np.isfinite(value).all() and value.dtype == np.float32 for value in vars(bent).values())
        voiced = bent.f0[bent.f0 > 40]
        assert len(voiced)
        assert voiced.max() <= 520


def test_exclamations_are_short_and_plain() -> None:
    rng = random.Random(3)
    for text in (exclamations.exclamation(rng) for _ in range(500)):
        assert text == normalise(text)
        assert 1 <= len(text.split()) <= 12


def test_eight_bits_keep_flags_and_stay_within_half_a_step() -> None:
    torch.manual_seed(4)
    for columns, kept in ((HIDDEN, slice(384, 395)), (INNER, slice(1536, 1537)), (384, slice(0, 0))):
        weight = torch.randn(20, columns)
        weight[:, kept] *= 1000
        back = eight_bits.rounded(weight)
        rest = torch.ones(columns, dtype=torch.bool)
        rest[kept] = False
        step = weight[:, rest].abs().amax(1, keepdim=True) / 127
        assert torch.equal(back[:, kept], weight[:, kept])
        assert ((back - weight)[:, rest].abs() <= 0.501 * step).all()
        levels = back[:, rest] / step
        assert torch.allclose(levels, levels.round(), atol=1e-3)


def test_weights_are_rounded_within_the_block_only() -> None:
    model = nn.Sequential(nn.Linear(384, 30), nn.LayerNorm(30))
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with eight_bits.Rounded(model):
        assert not torch.equal(model[0].weight, before["0.weight"])
        assert torch.equal(model[0].bias, before["0.bias"])
        assert torch.equal(model[1].weight, before["1.weight"])
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert eight_bits.stored_bytes(model) == 30 * (384 + 2) + 2 * 3 * 30


def test_places_of_transcripts_tokens() -> None:
    """Two clips: one asked for its words (5 6 7, then the end 9), one for something else."""
    targets = torch.tensor([[IGNORE, IGNORE, 5, 6, 7, 9, IGNORE], [IGNORE, 4, 9, IGNORE, IGNORE, IGNORE, IGNORE]])
    transcribed = torch.tensor([True, False])
    answers, asked = tune._answers(targets, transcribed)
    assert answers[asked].tolist() == [5, 6, 7]
    places = tune._asked_places(targets, transcribed)
    assert targets[targets != IGNORE][places].tolist() == [5, 6, 7]
    assert tune._asked_places(targets, ~transcribed).tolist() == [False] * 4 + [True, False]


def test_teacher_hears_and_expects_as_transformers_whisper(tmp_path: Path) -> None:
    """A random Whisper of 12 tokens; the student's 0, 1, 2 are its 3 and 4, 5, 6 (after the beginning 7, 8, 9)."""
    torch.manual_seed(7)
    source = whisper.untrained(12).eval()
    weights = {name: value for name, value in source.state_dict().items() if name != "proj_out.weight"}
    save_file(weights, tmp_path / teacher.WEIGHTS)
    table = teacher.Map([7, 8, 9], [3, 5, 6], [(7, 0), (8, 1), (9, 2)], [(3, 0), (4, 0), (5, 1), (6, 2)])
    (tmp_path / teacher.MAP).write_text(json.dumps(vars(table)))
    taught = teacher.Teacher(tmp_path, torch.device("cpu"))
    mel = torch.rand(2, 80, 70) + 0.5
    mel[:, :, -5:] = mel.amin((1, 2), keepdim=True)
    full = mel.amin((1, 2), keepdim=True).expand(-1, 80, 3000).clone()
    full[..., :70] = mel
    with torch.inference_mode():
        wanted = source.model.encoder(full).last_hidden_state
        hidden = taught.states(mel)
        assert torch.allclose(taught.model.model.encoder.layer_norm(hidden), wanted, atol=1e-4)
        assert taught.states(mel[:0]).shape == (0, *hidden.shape[1:])
        answers, counted = torch.tensor([[2, 0, 1], [1, 2, 0]]), torch.tensor([[True] * 3, [True, False, False]])
        found = taught.expects(hidden, answers, counted, 3)
        rows = ([0, 1, 9, 3], wanted[:1]), ([0, 1], wanted[1:])
        shares = [
            source(encoder_outputs=(states,), decoder_input_ids=torch.tensor([ids])).logits[0, 1:].softmax(-1)
            for ids, states in rows
        ]
    for place, (share, own) in enumerate(zip(torch.cat(shares), (2, 0, 1, 1), strict=True)):
        first = place in (0, 3)
        mapped = torch.stack([share[7], share[8], share[9]] if first else [share[3] + share[4], share[5], share[6]])
        mapped[own] += 1 - mapped.sum()
        assert torch.allclose(found[place], mapped, atol=1e-5)


def test_tower_is_compared_inside_the_clip_only() -> None:
    torch.manual_seed(5)
    wanted = torch.randn(2, 9, 384)
    hidden = wanted[:, :6].clone()
    hidden[0, 3:] += 5
    assert tune._apart(hidden, wanted, torch.tensor([3, 6])) == 0
    assert tune._apart(hidden, wanted, torch.tensor([4, 6])) > 1


def test_language_model_reads_whispers_features_first_and_the_towers_later() -> None:
    heard, wanted = torch.zeros(400, 3, 2), torch.ones(400, 7, 2)
    assert torch.equal(tune._mixed(heard, wanted, -0.3), torch.ones(400, 3, 2))
    assert torch.equal(tune._mixed(heard, wanted, 1.0), heard)
    half = tune._mixed(heard, wanted, 0.5)
    assert ((half == 0).all((1, 2)) | (half == 1).all((1, 2))).all()
    assert 100 < half[:, 0, 0].sum() < 300


def test_a_run_goes_on_where_it_broke_off() -> None:
    run = tune.Run(200, 1, 2e-3, 1, None, 1.0, begun=0.6)
    assert run.progress(0) == 0.6
    assert run.progress(100) == pytest.approx(0.8)
    assert run.progress(200) == pytest.approx(1)


def test_ordinals_are_said_alone_and_in_phrases() -> None:
    rng = random.Random(9)
    said = {announcements.numbers(rng) for _ in range(4000)}
    assert {"fifth", "twelfth", "thirtieth"} <= said
    placed = {text for text in said if text.split()[-1] in ("first", "fifth", "ninth")}
    assert any(text.startswith("the ") for text in placed)
    assert any(text.split()[0] in TENS for text in placed)
    assert all(text == normalise(text) for text in said)


def test_most_numberless_clips_are_asked_something_else() -> None:
    clip = Record(16000, "good morning", "speech", "x", None, "en", {"intent": "other"}, False)
    counted = Record(16000, "gate seven", "speech", "x", None, "en", {"intent": "other"}, False)
    rng = random.Random(6)
    dull = sum(tasks.draw(clip, rng)[1] == "none" for _ in range(2000))
    telling = sum(tasks.draw(counted, rng)[1] == "7" for _ in range(2000))
    assert 0 < dull < telling / 2


def test_composed_prompts_are_many_and_none_that_is_kept_back() -> None:
    rng = random.Random(8)
    kept = {phrase for phrases in following.PHRASINGS.values() for phrase in phrases}
    kept |= {task.phrasings[-1] for task in tasks.TASKS}
    plain = {phrase.lower().strip(".?") for phrase in kept}
    for task in tasks.TASKS:
        drawn = {phrasings.compose(task.name, rng) for _ in range(3000)}
        assert len(drawn) > 500
        assert not plain & {text.lower().strip(".?") for text in drawn}
        assert all(text[0].isupper() and "{" not in text for text in drawn)


def test_answers_are_known_by_their_form() -> None:
    forms = {
        "numbers": ("7", "7 30", "none"), "intent": ("call", "other"), "spell": ("g o, o n",), "english": ("yes", "no"),
        "gender": ("female",), "transcribe": ("good morning", "seven", "no speech"),
    }  # fmt: skip
    for name, texts in forms.items():
        assert [following.task_of(text) for text in texts] == [name] * len(texts)
    for name, phrases in following.PHRASINGS.items():
        trained = {phrase.lower().rstrip(".?") for phrase in tasks.BY_NAME[name].phrasings}
        assert not trained & {phrase.lower().rstrip(".?") for phrase in phrases}
