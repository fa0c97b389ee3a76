"""Findings of the data gate, and which of them a run may go on in spite of."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning"]
Values = dict[str, str | int | float]
EXAMPLES = 5  # places that a finding names
RECORDINGS = 50  # recordings that it names

# Every code, and what it means
CODES: Mapping[str, str] = {
    "unreadable": "recordings that are missing, damaged or no audio",
    "no_audio": "rows without a recording",
    "silent": "recordings below -60 dBFS throughout, in every channel",
    "noise_only": "recordings of steady noise, without speech or any other event",
    "clipped": "recordings with more than 1 % of the samples of one channel at full scale",
    "too_long": "recordings longer than the encoder's window",
    "too_short": "recordings shorter than 0.2 s",
    "length_differs": "recordings longer than the rows' own duration, which may be meant as a part",
    "duplicates": "rows that repeat another row",
    "contradictory": "rows with the same audio and prompt, but different answers",
    "leakage": "recordings both in training and in validation",
    "empty_label": "rows without an answer (head: without a label)",
    "constant_label": "the same answer in every row (head: fewer than two classes)",
    "few_samples": "fewer than 1,000 rows for the projector, fewer than 20 for LoRA",
    "class_too_small": "classes with fewer than 5 training rows",
    "unseen_class": "classes in validation that no training row has",
    "out_of_distribution": "recordings unlike the reference recordings to the base model's ear",
    "passed_over": "files and rows of the data set that no training row is made of",
    "unused_fields": "fields of rows that no reader knows",
}


@dataclass(frozen=True)
class Finding:
    """``examples``: places such as `data.jsonl:17`, the first few. ``recordings``: the first `RECORDINGS`, in the same
    order, as the data names them.

    ``final``: training could not even run. ``values``: what the message says besides code and count, for other
    languages.
    """

    code: str
    severity: Severity
    count: int
    message: str
    examples: list[str]
    final: bool = False
    recordings: list[str] = field(default_factory=list)
    values: Values = field(default_factory=dict)


@dataclass(frozen=True)
class SplitUse:
    """``rows`` of the split that the data calls ``name`` (None: rows without one), and what a run does with them."""

    name: str | None
    rows: int
    use: Literal["train", "held_out", "unused"]


@dataclass(frozen=True)
class GateReport:
    """``rows`` to train on, ``validation_rows`` held out, ``clips``: distinct recordings, of ``seconds`` together.

    ``classes``: training rows of each class, for a head. ``splits``: how each was used, where the data has any.
    ``idle_fields``: fields that are there and carry no meaning for training. ``remarks``: how a layout that no header
    explains was understood.
    """

    rows: int
    validation_rows: int
    clips: int
    seconds: float
    findings: list[Finding]
    classes: dict[str, int]
    splits: list[SplitUse] = field(default_factory=list)
    idle_fields: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def refused(self, allow: Sequence[str]) -> list[Finding]:
        """The errors that stop a run; ``allow`` names codes to go on in spite of, where that is possible."""
        errors = [finding for finding in self.findings if finding.severity == "error"]
        return [finding for finding in errors if finding.final or finding.code not in allow]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "GateReport":
        """From what `to_dict` gave."""
        findings = [Finding(**finding) for finding in fields["findings"]]
        splits = [SplitUse(**split) for split in fields.get("splits", [])]
        return cls(**{**fields, "findings": findings, "splits": splits})
