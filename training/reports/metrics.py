"""Metrics of answers: word and character errors, exact match, F1, ROUGE, each with a confidence interval."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.reports.intervals import difference, wilson

RESAMPLES = 1000  # of the bootstrap
MOST_CLASSES = 20  # as many distinct answers, each short and coming back, are classes
LONG = 12  # words: answers that are longer on average are compared by ROUGE as well

Draw = npt.NDArray[np.intp]  # indices of rows
Score = Callable[[Draw], float]
Metric = Callable[[Sequence[str], Sequence[str]], Score]  # truths, answers -> the score of any draw of their rows


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % confidence interval: percentile bootstrap over rows (Efron 1979).

    Where all rows are alike, so that the bootstrap has no width, it is Wilson's (`training.reports.intervals`).
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f}–{100 * self.high:.1f})"


# name -> (metric, is more better, what people call it)
METRICS: dict[str, tuple[Metric, bool, str]] = {}


def _metric(name: str, more_is_better: bool, title: str) -> Callable[[Metric], Metric]:
    def add(metric: Metric) -> Metric:
        METRICS[name] = (metric, more_is_better, title)
        return metric

    return add


@_metric("exact", True, "exact match")
def exact(truths: Sequence[str], answers: Sequence[str]) -> Score:
    """Share of answers equal to the truth, up to case, punctuation and spaces."""
    return _ratio([(normal(t) == normal(a), 1) for t, a in zip(truths, answers, strict=True)])


@_metric("wer", False, "word errors (WER)")
def wer(truths: Sequence[str], answers: Sequence[str]) -> Score:
    """Word error rate (jiwer): errors over words of the truth; may exceed 1."""
    import jiwer

    return _ratio([_errors(jiwer.process_words(*pair)) for pair in _pairs(truths, answers)])


@_metric("cer", False, "character errors (CER)")
def cer(truths: Sequence[str], answers: Sequence[str]) -> Score:
    """Character error rate (jiwer); may exceed 1."""
    import jiwer

    return _ratio([_errors(jiwer.process_characters(*pair)) for pair in _pairs(truths, answers)])


@_metric("macro_f1", True, "macro F1")
def macro_f1(truths: Sequence[str], answers: Sequence[str]) -> Score:
    """F1 of each true class, averaged over those; any other answer is a miss."""
    said, answered = ([normal(text) for text in texts] for texts in (truths, answers))
    place = {name: index for index, name in enumerate(dict.fromkeys([*said, *answered]))}
    true, predicted = (np.array([place[name] for name in names]) for names in (said, answered))

    def score(draw: Draw) -> float:
        right = np.bincount(true[draw][true[draw] == predicted[draw]], minlength=len(place))
        both = np.bincount(true[draw], minlength=len(place)) + np.bincount(predicted[draw], minlength=len(place))
        return float(np.mean([2 * right[name] / both[name] for name in np.unique(true[draw])]))

    return score


@_metric("rouge_l", True, "ROUGE-L")
def rouge_l(truths: Sequence[str], answers: Sequence[str]) -> Score:
    """Mean F-measure of the longest common subsequence (rouge-score)."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    return _ratio([(scorer.score(t, a)["rougeL"].fmeasure, 1) for t, a in zip(truths, answers, strict=True)])


def fitting(truths: Sequence[str]) -> list[str]:
    """The metrics that suit these answers; the first is the one to judge by."""
    words = [normal(truth).split() for truth in truths]
    mean = sum(map(len, words)) / len(words)
    distinct = len(set(map(tuple, words)))
    if distinct <= min(MOST_CLASSES, len(words) // 2):
        return ["exact", "macro_f1"]
    if any(_unspaced(truth) for truth in truths):
        return ["cer", "exact"]
    if mean > LONG:
        return ["rouge_l", "wer", "exact"]
    return ["wer", "cer", "exact"] if mean > 1.5 else ["exact", "wer"]


def figures(truths: Sequence[str], answers: Sequence[str], names: Sequence[str], seed: int = 0) -> dict[str, Figure]:
    """Every metric of ``names`` with its interval."""
    scores = {name: METRICS[name][0](truths, answers) for name in names}
    return {name: _figure(score, len(truths), seed) for name, score in scores.items()}


def gain(
    truths: Sequence[str], before: Sequence[str], after: Sequence[str], name: str, seed: int = 0
) -> dict[str, float | bool]:
    """After less before on the same rows, paired bootstrap; ``better``: for certain, its interval leaves zero out.

    Where every row changes alike the interval is Newcombe's (`training.reports.intervals`).
    """
    metric, more_is_better, _ = METRICS[name]
    old, new, every = metric(truths, before), metric(truths, after), np.arange(len(truths))
    low_high = _bootstrap(lambda draw: new(draw) - old(draw), len(truths), seed)
    low, high = low_high or difference(old(every), new(every), len(truths))
    found = Figure(new(every) - old(every), low, high)
    better = found.low > 0 if more_is_better else found.high < 0
    return {**{key: round(value, 4) for key, value in asdict(found).items()}, "better": better}


def plain(found: dict[str, Figure]) -> dict[str, Any]:
    """As JSON has it."""
    return {name: {key: round(value, 4) for key, value in asdict(figure).items()} for name, figure in found.items()}


def normal(text: str) -> str:
    """Lower case, no punctuation, single spaces: how answers are compared."""
    text = unicodedata.normalize("NFKC", text).lower()
    return " ".join(re.sub(r"[^\w\s']", " ", text).split()) or " ".join(text.split())


def _ratio(rows: Sequence[tuple[float, float]]) -> Score:
    """Sum over sum of the rows drawn."""
    parts = np.array(rows, dtype=float)

    def score(draw: Draw) -> float:
        above, below = parts[draw].sum(axis=0)
        return float(above / below)

    return score


def _pairs(truths: Sequence[str], answers: Sequence[str]) -> list[tuple[str, str]]:
    return [(normal(truth) or "∅", normal(answer)) for truth, answer in zip(truths, answers, strict=True)]


def _errors(found: Any) -> tuple[int, int]:
    """Errors and length of the truth, of jiwer's alignment."""
    wrong = found.substitutions + found.deletions
    return wrong + found.insertions, wrong + found.hits


def _figure(score: Score, rows: int, seed: int) -> Figure:
    value = score(np.arange(rows))
    low, high = _bootstrap(score, rows, seed) or wilson(value, rows)
    return Figure(value, low, high)


def _bootstrap(score: Score, rows: int, seed: int) -> tuple[float, float] | None:
    """The 95 % range over rows drawn anew; None where it has no width."""
    random = np.random.default_rng(seed)
    values = [score(random.integers(rows, size=rows)) for _ in range(RESAMPLES)]
    low, high = np.percentile(values, [2.5, 97.5])
    return None if np.isclose(low, high, rtol=0, atol=1e-9) else (float(low), float(high))


def _unspaced(text: str) -> bool:
    """True if a text is written without spaces between words, as Chinese and Japanese are."""
    return any("぀" <= letter <= "鿿" for letter in text)
