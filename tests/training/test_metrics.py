"""Metrics against the libraries' own, intervals against what a bootstrap must give."""

import jiwer
import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import f1_score

from training.metrics import METRICS, figures, fitting, gain, normal

TRUTHS = ["turn the light on", "turn it off", "play some music", "what time is it", "stop"] * 6
ANSWERS = ["turn the light on", "turn it of", "play music", "what time is it now", ""] * 3 + TRUTHS[15:]
EVERY = np.arange(len(TRUTHS))


def score(name: str) -> float:
    return METRICS[name][0](TRUTHS, ANSWERS)(EVERY)


def test_errors_are_jiwers() -> None:
    assert score("wer") == pytest.approx(jiwer.wer(TRUTHS, ANSWERS))
    assert score("cer") == pytest.approx(jiwer.cer(TRUTHS, ANSWERS))


def test_f1_is_scikit_learns() -> None:
    labels = sorted(set(TRUTHS))
    theirs = f1_score(TRUTHS, ANSWERS, labels=labels, average="macro", zero_division=0)
    assert score("macro_f1") == pytest.approx(theirs)


def test_rouge_is_rouge_scores() -> None:
    scorer = RougeScorer(["rougeL"])
    pairs = zip(TRUTHS, ANSWERS, strict=True)
    assert score("rouge_l") == pytest.approx(np.mean([scorer.score(t, a)["rougeL"].fmeasure for t, a in pairs]))


def test_interval_is_the_binomials() -> None:
    truths, answers = ["a"] * 400, ["a"] * 300 + ["b"] * 100
    found = figures(truths, answers, ["exact"])["exact"]
    spread = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert found.value == 0.75
    assert found.low == pytest.approx(0.75 - spread, abs=0.01)
    assert found.high == pytest.approx(0.75 + spread, abs=0.01)


def test_gain_knows_chance_from_progress() -> None:
    assert gain(TRUTHS, ANSWERS, TRUTHS, "exact")["better"] is True
    assert gain(TRUTHS, ANSWERS, TRUTHS, "wer")["better"] is True
    assert gain(TRUTHS, TRUTHS, ANSWERS, "wer")["better"] is False
    one_row = [*ANSWERS[:1], TRUTHS[1], *ANSWERS[2:]]
    assert gain(TRUTHS, ANSWERS, one_row, "exact")["better"] is False


@pytest.mark.parametrize(
    ("truths", "first"),
    [
        (["yes", "no"] * 10, "exact"),
        ([f"this is sentence number {n}" for n in range(20)], "wer"),
        ([f"这是第{n}句" for n in range(20)], "cer"),
        ([" ".join(f"w{n}{i}" for i in range(20)) for n in range(20)], "rouge_l"),
    ],
)
def test_metric_fits_the_answers(truths: list[str], first: str) -> None:
    assert fitting(truths)[0] == first


def test_normal_form() -> None:
    assert normal(" Turn  it OFF! ") == "turn it off"
    assert normal("?") == "?"
