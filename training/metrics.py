"""How right answers are: word and character errors, exact match, F1, ROUGE, each with a confidence interval."""

import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

RESAMPLES = 1000  # of the bootstrap
MOST_CLASSES = 20  # as many distinct answers, each short and coming back, are classes
LONG = 12  # words: answers that are longer on average are compared by ROUGE as well

Score = Callable[[Sequence[str], Sequence[str]], float]
Row = TypeVar("Row", bound=tuple[str, ...])


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % confidence interval (percentile bootstrap over rows, Efron 1979)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f}–{100 * self.high:.1f})"


# name -> (score, is more better, what people call it)
METRICS: dict[str, tuple[Score, bool, str]] = {}


def _metric(name: str, more_is_better: bool, title: str) -> Callable[[Score], Score]:
    def add(score: Score) -> Score:
        METRICS[name] = (score, more_is_better, title)
        return score

    return add


@_metric("exact", True, "exact match")
def exact(truths: Sequence[str], answers: Sequence[str]) -> float:
    """Share of answers equal to the truth, up to case, punctuation and spaces."""
    return sum(normal(t) == normal(a) for t, a in zip(truths, answers, strict=True)) / len(truths)


@_metric("wer", False, "word errors (WER)")
def wer(truths: Sequence[str], answers: Sequence[str]) -> float:
    """Word error rate (jiwer); may exceed 1."""
    import jiwer

    return float(jiwer.wer([normal(t) or "∅" for t in truths], [normal(a) for a in answers]))


@_metric("cer", False, "character errors (CER)")
def cer(truths: Sequence[str], answers: Sequence[str]) -> float:
    """Character error rate (jiwer); may exceed 1."""
    import jiwer

    return float(jiwer.cer([normal(t) or "∅" for t in truths], [normal(a) for a in answers]))


@_metric("macro_f1", True, "macro F1")
def macro_f1(truths: Sequence[str], answers: Sequence[str]) -> float:
    """F1 of each true class, averaged (scikit-learn); any other answer is a miss."""
    from sklearn.metrics import f1_score

    said, heard = [normal(t) for t in truths], [normal(a) for a in answers]
    return float(f1_score(said, heard, labels=sorted(set(said)), average="macro", zero_division=0))


@_metric("rouge_l", True, "ROUGE-L")
def rouge_l(truths: Sequence[str], answers: Sequence[str]) -> float:
    """Mean F-measure of the longest common subsequence (rouge-score)."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    scores = [scorer.score(t, a)["rougeL"].fmeasure for t, a in zip(truths, answers, strict=True)]
    return float(sum(scores) / len(scores))


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
    return {name: _figure(METRICS[name][0], list(zip(truths, answers, strict=True)), seed) for name in names}


def gain(
    truths: Sequence[str], before: Sequence[str], after: Sequence[str], name: str, seed: int = 0
) -> dict[str, float | bool]:
    """After less before on the same rows, paired bootstrap; ``better``: for certain, its interval leaves zero out."""
    score, more_is_better, _ = METRICS[name]
    rows = list(zip(truths, before, after, strict=True))

    def difference(chosen: Sequence[tuple[str, str, str]]) -> float:
        said, old, new = zip(*chosen, strict=True)
        return score(said, new) - score(said, old)

    low, high = _interval([difference(sample) for sample in _samples(rows, seed)])
    return {
        "value": round(difference(rows), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "better": low > 0 if more_is_better else high < 0,
    }


def plain(found: dict[str, Figure]) -> dict[str, Any]:
    """As JSON has it."""
    return {name: {key: round(value, 4) for key, value in asdict(figure).items()} for name, figure in found.items()}


def normal(text: str) -> str:
    """Lower case, no punctuation, single spaces: how answers are compared."""
    text = unicodedata.normalize("NFKC", text).lower()
    return " ".join(re.sub(r"[^\w\s']", " ", text).split()) or " ".join(text.split())


def _figure(score: Score, rows: Sequence[tuple[str, str]], seed: int) -> Figure:
    values = [score(*zip(*sample, strict=True)) for sample in _samples(rows, seed)]
    low, high = _interval(values)
    return Figure(score(*zip(*rows, strict=True)), low, high)


def _samples(rows: Sequence[Row], seed: int) -> list[list[Row]]:
    """Resamples with replacement."""
    rng = random.Random(seed)
    return [rng.choices(rows, k=len(rows)) for _ in range(RESAMPLES)]


def _interval(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[int(0.025 * len(ordered))], ordered[int(0.975 * len(ordered)) - 1]


def _unspaced(text: str) -> bool:
    """Whether a text is written without spaces between words, as Chinese and Japanese are."""
    return any("぀" <= letter <= "鿿" for letter in text)
