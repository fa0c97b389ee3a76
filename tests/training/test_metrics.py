"""Metrics against the libraries' own, intervals against what a bootstrap must give."""

import jiwer
import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from training.reports.metrics import METRICS, figures, fitting, gain, normal

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


@pytest.mark.parametrize(("rows", "right"), [(24, 24), (24, 0), (1, 1), (7, 0)])
def test_where_all_rows_are_alike_the_interval_is_wilsons(rows: int, right: int) -> None:
    truths, answers = ["go on"] * rows, ["go on" if row < right else "stay here" for row in range(rows)]
    found = figures(truths, answers, ["exact", "wer"])
    theirs = binomtest(right, rows).proportion_ci(method="wilson")
    assert (found["exact"].low, found["exact"].high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
    assert (found["wer"].low, found["wer"].high) == pytest.approx((1 - theirs.high, 1 - theirs.low), abs=1e-6)


def test_a_change_of_every_row_is_certain_only_where_there_are_rows() -> None:
    def change(rows: int) -> dict[str, float | bool]:
        return gain(["on"] * rows, ["off"] * rows, ["on"] * rows, "exact")

    many = change(24)
    assert (many["value"], many["high"], many["better"]) == (1, 1, True)
    assert many["low"] == pytest.approx(1 - 2**0.5 * (1 - 0.86203), abs=1e-3)  # Newcombe's method 10, by hand
    assert (change(1)["value"], change(1)["better"]) == (1, False)
    same = gain(["on"] * 24, ["on"] * 18 + ["off"] * 6, ["on"] * 18 + ["off"] * 6, "exact")
    assert (same["low"], same["high"], same["better"]) == (pytest.approx(-0.138, abs=1e-3), -same["low"], False)


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
