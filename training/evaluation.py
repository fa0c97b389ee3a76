"""The questions to base and adapter alike: held-out rows, general questions, and the held-out rows in silence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from training.answers import Answerer
from training.data.reference import shipped
from training.data.rows import PLACEHOLDER, Row, Turn
from training.examples import Example
from training.reports.metrics import METRICS, cer, figures, fitting, gain, normal, plain

Side = Literal["before", "after"]
# Asked of recordings that no adapter is trained on, to see what is left of the base's own answers
GENERAL = ("Transcribe the audio.", "What do you hear?")


@dataclass(frozen=True)
class Answers:
    """One answer to each held-out row and to each general question."""

    held_out: list[str]
    general: list[str]


def general_rows() -> list[Row]:
    """The general questions about the reference recordings."""
    return [
        Row((Turn("user", f"{PLACEHOLDER}{prompt}"), Turn("assistant", "-")), (sound,), None, sound.name)
        for prompt in GENERAL
        for sound in shipped()
    ]


class Exam:
    """Asks whatever model the answerer has at the moment. ``general`` may be empty.

    ``progress``: called with the side that answers, the answers so far, and all that it will give.
    """

    def __init__(
        self,
        answerer: Answerer,
        held_out: Sequence[Example],
        general: Sequence[Example],
        progress: Callable[[Side, int, int], object] | None = None,
    ) -> None:
        self.answerer = answerer
        self.held_out = list(held_out)
        self.general = list(general)
        self._with_audio = [place for place, example in enumerate(self.held_out) if example.clips]
        self._progress = progress
        self._side: Side = "before"
        self._done = 0

    def take(self, side: Side) -> Answers:
        """The answers of the base before training, or of the adapter after it."""
        self._side, self._done = side, 0
        self._answered(0)
        return Answers(self._ask(self.held_out), self._ask(self.general))

    def changed(self, before: Answers) -> float:
        """Share of general answers that are not the base's any more."""
        return 1 - _same(before.general, self.answerer.answer(self.general))

    def report(self, before: Answers, after: Answers, seed: int) -> dict[str, Any]:
        """Figures of both, for the manifest; all but ``gain`` are shares."""
        truths = [example.row.response for example in self.held_out]
        names = fitting(truths)
        report: dict[str, Any] = {
            "data": f"{len(truths)} held-out rows",
            "rows": len(truths),
            "judged_by": names[0],
            "before": _flat(truths, before.held_out, names, seed),
            "after": _flat(truths, after.held_out, names, seed),
            "gain": gain(truths, before.held_out, after.held_out, names[0], seed),
        }
        if self.general:
            report["retention"] = {
                "rows": len(self.general),
                "same": round(_same(before.general, after.general), 4),
                "similar": round(_similar(before.general, after.general), 4),
            }
        if places := self._with_audio:
            report["listening"] = self._listening([self.held_out[place] for place in places], places, after, names[0])
        return report

    def _listening(self, rows: list[Example], places: list[int], after: Answers, name: str) -> dict[str, Any]:
        """Does the adapter listen? Its answers must change when the audio is swapped for silence."""
        silent = self._ask(rows, silent=True)
        truths = [row.row.response for row in rows]
        return {
            "rows": len(rows),
            "changed": round(1 - _same([after.held_out[place] for place in places], silent), 4),
            f"{name}_in_silence": round(figures(truths, silent, [name])[name].value, 4),
        }

    def _ask(self, examples: Sequence[Example], *, silent: bool = False) -> list[str]:
        return self.answerer.answer(examples, silent=silent, answered=self._answered)

    def _answered(self, count: int) -> None:
        """Report progress; the adapter answers the rows with recordings once more in silence."""
        self._done += count
        silent = len(self._with_audio) if self._side == "after" else 0
        if self._progress:
            self._progress(self._side, self._done, len(self.held_out) + len(self.general) + silent)


def verdict(report: dict[str, Any]) -> list[str]:
    """Sentences that a reader of the figures should know first."""
    words, name = [], report["judged_by"]
    title, found = METRICS[name][2], report["gain"]
    if not found["better"]:
        words.append(
            f"No certain gain: the change in {title} is {100 * found['value']:+.1f} points, "
            f"95 % interval {100 * found['low']:+.1f} to {100 * found['high']:+.1f}."
        )
    if report.get("listening", {}).get("changed", 1) < 0.1:
        words.append("It hardly listens: nearly all answers stay the same when the audio is silent.")
    if report.get("retention", {}).get("similar", 1) < 0.5:
        words.append("General answers have changed a lot: use it for its own prompt.")
    return words


def _flat(truths: Sequence[str], answers: Sequence[str], names: Sequence[str], seed: int) -> dict[str, Any]:
    found = plain(figures(truths, answers, names, seed))
    flat: dict[str, Any] = {}
    for name, figure in found.items():
        flat[name] = figure["value"]
        flat[f"{name}_range"] = [figure["low"], figure["high"]]
    return flat


def _same(old: Sequence[str], new: Sequence[str]) -> float:
    return sum(normal(a) == normal(b) for a, b in zip(old, new, strict=True)) / max(1, len(old))


def _similar(old: Sequence[str], new: Sequence[str]) -> float:
    """Mean of 1 less the character errors against the base's own answers, 0 at least."""
    import numpy as np

    score = cer(old, new)
    return float(np.mean([max(0.0, 1 - score(np.array([place]))) for place in range(len(old))]))
