"""Heads: features as transformers computes them, a fit as good as scikit-learn's, honest figures."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler

from app.audio.decode import Limits, decode
from app.errors import BadRequest
from app.models.features import FeatureExtractor
from app.models.head import moments, pool, read_head
from app.models.loading import LoadedModel, load
from app.settings import EMBEDDED_MODEL
from tests.sounds import Sample, rows, samples
from training.audio_features import AudioFeatures
from training.data.rows import Row
from training.events import Events
from training.methods.classification import calibration_error, figures, fit_temperature, macro_f1
from training.methods.classifier import TrainedHead, _folds, features_of, labels_of, train_head
from training.options import TrainOptions

LIMITS = Limits(60.0, 1 << 26)


def options(**changed) -> TrainOptions:
    return TrainOptions(data="data", name="sounds", method="head", **changed)


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load(str(EMBEDDED_MODEL), torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def split() -> tuple[list[Sample], list[Sample]]:
    found = samples()
    return [each for each in found if not each.held_out], [each for each in found if each.held_out]


@pytest.fixture(scope="module")
def heard(tiny, split, tmp_path_factory) -> tuple[torch.Tensor, list[str], torch.Tensor, list[str]]:
    """Features and labels of training and held-out rows."""
    audio_features = AudioFeatures(tiny, LIMITS, tmp_path_factory.mktemp("cache"))
    train, held_out = (rows(part) for part in split)
    return (
        features_of(train, audio_features),
        labels_of(train),
        features_of(held_out, audio_features),
        labels_of(held_out),
    )


def blobs(rows: int, classes: int = 3, width: int = 8, spread: float = 1.5, seed: int = 0):
    """Overlapping clouds of features [rows, 2 * width], the classes unevenly common."""
    drawn = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((classes, 2 * width))
    y = drawn.choice(classes, rows, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    x = centres[y] + spread * drawn.standard_normal((rows, 2 * width))
    x = 5 + x * np.linspace(0.01, 30, 2 * width)
    return torch.tensor(x, dtype=torch.float32), [f"class {label}" for label in y]


def on_blobs(**changed) -> TrainedHead:
    return train_head(*blobs(400), *blobs(600, seed=1), options(**changed), Events())


def test_features_are_those_of_transformers_own_tower(tiny, split, heard) -> None:
    """The whole padded window through the model's own forward pass, pooled over the frames that are valid."""
    given = []
    projector = tiny.model.model.multi_modal_projector
    handle = projector.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    extractor = FeatureExtractor(tiny.processor)
    for row, features in list(zip(rows(split[1]), heard[2], strict=True))[::6]:
        recording = decode(row.sounds[0].data, rate=16_000, limits=LIMITS)
        (clip,) = extractor.clips(recording)
        ids = torch.full((1, clip.tokens), tiny.model.config.audio_token_id)
        mask = (torch.arange(clip.mel.shape[-1]) < clip.frames).long()[None]
        tiny.model(input_ids=ids, input_features=clip.mel[None], feature_attention_mask=mask)
        valid = given.pop().reshape(-1, tiny.spec.tower_width)[: clip.tokens].numpy()
        theirs = np.concatenate([valid.mean(0), valid.std(0)])
        np.testing.assert_allclose(features.numpy(), theirs, atol=2e-5)
    handle.remove()


def test_a_long_recording_is_pooled_over_all_its_frames(loaded, tmp_path: Path) -> None:
    """Windows of two seconds here; clips of unequal length weigh by their frames."""
    (each,) = rows([Sample("speech", np.random.default_rng(0).standard_normal(70_001).astype(np.float32) / 5, False)])
    audio_features = AudioFeatures(loaded, LIMITS, tmp_path)
    features = features_of([each], audio_features)
    ((first, *rest),) = audio_features.extract(each.sounds)
    frames = torch.cat(audio_features.tower_output([first, *rest]))
    assert len(rest) == 2
    torch.testing.assert_close(features[0], torch.cat([frames.mean(0), frames.std(0, correction=0)]))
    uneven = [frames[:7], frames[7:10], frames[10:11], frames[11:]]
    torch.testing.assert_close(pool([moments(part) for part in uneven]), features[0])


def test_held_out_recordings_are_told_apart(heard, split, tmp_path: Path) -> None:
    """Speech of unheard recordings, and unheard sounds of each kind; scikit-learn does as well."""
    trained = train_head(*heard, options(), Events())
    reference = StandardScaler().fit(heard[0])
    classifier = LogisticRegression(max_iter=2000, class_weight="balanced")
    theirs = classifier.fit(reference.transform(heard[0]), heard[1]).score(reference.transform(heard[2]), heard[3])
    assert trained.metrics["after"]["accuracy"] >= max(0.95, theirs - 0.04)
    assert trained.metrics["before"]["accuracy"] < 0.5
    said = trained.head.probabilities(heard[2])
    names = trained.head.config.labels
    spoken = said[[label == "speech" for label in heard[3]], names.index("speech")]
    assert spoken.min() > 0.5
    torch.testing.assert_close(said.sum(1), torch.ones(len(said)))

    trained.save(tmp_path / "head")
    assert sorted(file.name for file in (tmp_path / "head").iterdir()) == ["README.md", "head.json", "head.safetensors"]
    assert torch.equal(read_head(tmp_path / "head").probabilities(heard[2]), said)
    assert "| speech | " in (tmp_path / "head" / "README.md").read_text()


@pytest.mark.parametrize("hidden", [0, 32])
def test_as_good_as_scikit_learn_where_classes_overlap(hidden: int) -> None:
    train, held_out = blobs(400), blobs(600, seed=1)
    trained = on_blobs(hidden=hidden)
    scaler = StandardScaler().fit(train[0])
    classifier = LogisticRegression(max_iter=2000, class_weight="balanced")
    reference = classifier.fit(scaler.transform(train[0]), train[1]).predict(scaler.transform(held_out[0]))
    after = trained.metrics["after"]
    assert after["accuracy"] == pytest.approx((reference == np.array(held_out[1])).mean(), abs=0.03)
    assert after["macro_f1"] == pytest.approx(f1_score(held_out[1], reference, average="macro"), abs=0.03)
    assert after["accuracy_range"][0] < after["accuracy"] < after["accuracy_range"][1]
    assert after["macro_f1_range"][0] < after["macro_f1"] < after["macro_f1_range"][1]
    assert after["accuracy"] > trained.metrics["before"]["accuracy"] + 0.2
    matrix = np.array(trained.metrics["confusion"]["rows_are_true"])
    assert matrix.sum() == 600
    assert matrix.trace() / 600 == pytest.approx(after["accuracy"], abs=1e-4)


def test_the_same_seed_gives_the_same_bits() -> None:
    first, again, other = (on_blobs(hidden=16, epochs=20, seed=seed) for seed in (1, 1, 2))
    assert first.history == again.history
    assert first.metrics == again.metrics
    for name, tensor in first.head.tensors.items():
        assert torch.equal(tensor, again.head.tensors[name])
    assert not torch.equal(first.head.tensors["weight"], other.head.tensors["weight"])


def test_training_stops_when_left_out_rows_gain_no_more() -> None:
    trained = on_blobs(hidden=64, learning_rate=1e-2, patience=5)
    epochs, losses = [entry[0] for entry in trained.history], [entry[2] for entry in trained.history]
    assert epochs == list(range(1, len(epochs) + 1))
    assert len(epochs) < 300
    assert len(epochs) - 1 - int(np.argmin(losses)) == 5


def test_what_a_run_tells() -> None:
    told = []
    train_head(*blobs(200), *blobs(50, seed=1), options(epochs=3), Events([told.append]))
    start, *steps = told
    assert start["event"] == "start"
    assert (start["rows"], start["held_out"], sum(start["labels"].values())) == (200, 50, 200)
    assert [event["event"] for event in steps] == ["step", "eval"] * 3 + ["eval"]
    assert [event["step"] for event in steps[:6:2]] == [1, 2, 3]
    assert steps[4]["loss"] < steps[0]["loss"]
    assert steps[-1]["metrics"]["rows"] == 50


def test_the_temperature_is_the_best_one_and_undoes_exaggeration() -> None:
    drawn = torch.Generator().manual_seed(0)
    honest = 2 * torch.randn(4000, 4, generator=drawn)
    classes = torch.multinomial(torch.softmax(honest, 1), 1, generator=drawn)[:, 0]
    assert fit_temperature(honest, classes) == pytest.approx(1.0, abs=0.07)
    exaggerated = 3 * honest
    found = fit_temperature(exaggerated, classes)
    assert found == pytest.approx(3 * fit_temperature(honest, classes), rel=1e-4)
    tried = np.linspace(2.5, 3.6, 100)
    losses = [float(F.cross_entropy(exaggerated / each, classes)) for each in tried]
    assert found == pytest.approx(tried[int(np.argmin(losses))], abs=0.03)
    before, after = (calibration_error(torch.softmax(exaggerated / t, 1), classes) for t in (1.0, found))
    assert after < 0.03 < 0.1 < before


def test_the_calibrated_head_is_better_calibrated_on_rows_it_has_not_seen() -> None:
    calibration = on_blobs(epochs=10).metrics["calibration"]  # so short a training is too modest
    assert calibration["temperature"] < 0.5
    assert calibration["error_after"] < 0.1 < 0.2 < calibration["error_before"]


def test_rows_without_an_error_do_not_ask_for_certainty() -> None:
    logits = 10 * F.one_hot(torch.arange(60) % 3, 3).float()
    classes = torch.arange(60) % 3
    probability = torch.softmax(logits / fit_temperature(logits, classes), 1)[0, 0]
    assert 0.97 < probability < 0.995  # one row more in sixty may be any of three


def test_calibration_error_by_the_definition() -> None:
    probabilities = torch.softmax(2 * torch.randn(500, 3, generator=torch.Generator().manual_seed(3)), 1)
    classes = torch.arange(500) % 3
    confidence, said = probabilities.max(1)
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = [i for i in range(500) if low <= confidence[i] < low + 1 / 15]
        if inside:
            right = np.mean([float(said[i] == classes[i]) for i in inside])
            expected += len(inside) / 500 * abs(right - np.mean([float(confidence[i]) for i in inside]))
    assert calibration_error(probabilities, classes) == pytest.approx(expected, abs=1e-5)


def test_macro_f1_is_scikit_learns() -> None:
    drawn = np.random.default_rng(0)
    for labels in (2, 3, 7):
        right, said = drawn.integers(labels, size=20), drawn.integers(labels, size=20)
        confusion = np.bincount(right * 8 + said, minlength=64).reshape(8, 8)  # a label that never occurs
        assert macro_f1(confusion) == pytest.approx(f1_score(right, said, average="macro"))


def test_folds_deal_out_every_class_evenly() -> None:
    y = torch.tensor([0] * 50 + [1] * 13 + [2] * 7)
    folds = _folds(y, 0)
    for label, least in ((0, 10), (1, 2), (2, 1)):
        counts = folds[y == label].bincount(minlength=5)
        assert counts.min() == least
        assert counts.max() - counts.min() <= 1
    assert int(_folds(torch.tensor([0, 0, 0, 1, 1]), 0).max()) == 1  # no fold without a class


@pytest.mark.parametrize(
    ("train", "held_out", "words"),
    [
        (["a"] * 6, ["a"], "two labels at least"),
        (["a"] * 5 + ["b"], ["a"], "Too few training rows for 'b'"),
        (["a"] * 3 + ["b"] * 3, ["c"], "No training row has the held-out label 'c'"),
        (["a"] * 3 + ["b"] * 3, [], "no held-out rows"),
        (["a"] * 3 + ["b" * 300] * 3, ["a"], "cannot be served"),
    ],
)
def test_labels_that_cannot_be_learned(train: list[str], held_out: list[str], words: str) -> None:
    x = torch.randn(6, 8)
    with pytest.raises(BadRequest, match=words):
        train_head(x, train, x[: len(held_out)], held_out, options(), Events())


def test_rows_that_cannot_be_used(loaded, tmp_path: Path) -> None:
    (good,) = rows([samples(made=1)[0]])
    twice = Row(good.turns, good.sounds * 2, good.label, "data.jsonl:3")
    with pytest.raises(BadRequest, match=r"data\.jsonl:3: a head takes one recording per row, here are 2"):
        features_of([good, twice], AudioFeatures(loaded, LIMITS, tmp_path))
    with pytest.raises(BadRequest, match=r"data\.jsonl:4: there is no label"):
        labels_of([good, Row(good.turns, good.sounds, None, "data.jsonl:4")])


def test_a_head_has_its_own_usual_values() -> None:
    assert (options().epochs, options().batch, options().rate) == (300.0, 256, 3e-3)
    assert options(epochs=7, batch=4).epochs == 7
    assert TrainOptions.model_validate_json(options(batch=4).model_dump_json()) == options(batch=4)
    assert TrainOptions(data="data", name="words").epochs == 3.0


def test_ranges_of_a_head_that_is_always_right_have_a_width() -> None:
    classes = torch.tensor([0, 1] * 12)
    found = figures(F.one_hot(classes, 2).float() * 9, classes, 0, ["a", "b"], 1.0, seed=0)["after"]
    theirs = binomtest(24, 24).proportion_ci(method="wilson")
    assert (found["accuracy"], found["macro_f1"]) == (1, 1)
    assert found["accuracy_range"] == found["macro_f1_range"] == [pytest.approx(theirs.low, abs=1e-4), 1]
