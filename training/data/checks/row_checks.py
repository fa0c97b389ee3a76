"""Do the rows say something that can be learned? Prompts, answers, labels and what repeats."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from training.data.checks.findings import EXAMPLES, RECORDINGS, Finding, Severity, Values
from training.data.rows import Row
from training.options import Method

KeyOf = Callable[[Row], tuple[str, ...]]  # hashes of a row's recordings

FEWEST = {"projector": 1000, "lora": 20}  # rows; the projector's breaks the alignment below, LoRA learns by heart
FEWEST_OF_A_CLASS = 5


def found(
    code: str,
    severity: Severity,
    rows: Sequence[Row],
    message: str,
    *,
    final: bool = False,
    values: Values | None = None,
) -> Iterator[Finding]:
    """A finding over rows; nothing without any."""
    if rows:
        names = dict.fromkeys(sound.name for row in rows[:RECORDINGS] for sound in row.sounds)
        places = [row.place for row in rows[:EXAMPLES]]
        yield Finding(code, severity, len(rows), message, places, final, list(names), values or {})


def check_rows(train: Sequence[Row], validation: Sequence[Row], method: Method, key_of: KeyOf) -> Iterator[Finding]:
    """All findings about rows."""
    rows = [*train, *validation]
    yield from _missing(rows, method)
    yield from _repeated(rows, method, key_of)
    yield from _leakage(train, validation, key_of)
    if method == "head":
        yield from _classes(train, validation)
    else:
        yield from _amounts(train, method)


def _missing(rows: Sequence[Row], method: Method) -> Iterator[Finding]:
    """Without an answer, without audio."""
    empty = [row for row in rows if not answer(row, method)]
    if method == "head":
        yield from found("empty_label", "error", empty, "rows have no class (the field `label`)", final=True)
    else:
        unanswered = any(row.turns[-1].role != "assistant" for row in empty)
        message = "rows have no answer (a label alone trains a head: --method head)"
        yield from found("empty_label", "error", empty, message, final=unanswered)
    mute = [row for row in rows if not row.sounds]
    if method != "lora" or len(mute) == len(rows):
        yield from found("no_audio", "error", mute, "rows have no recording", final=method != "lora")


def _repeated(rows: Sequence[Row], method: Method, key_of: KeyOf) -> Iterator[Finding]:
    """Rows that ask the same, with the same answer or with another."""
    asked: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        said = () if method == "head" else row.turns[:-1]
        asked[key_of(row), said].append(row)
    repeats, against = [], []
    for same in asked.values():
        answers = {answer(row, method) for row in same}
        if len(answers) > 1:
            against += same
        seen: set[str] = set()
        for row in same:
            given = answer(row, method)
            if given in seen:
                repeats.append(row)
            seen.add(given)
    yield from found("duplicates", "warning", repeats, "rows repeat another row: same audio, prompt and answer")
    yield from found("contradictory", "warning", against, "rows answer the same audio and prompt differently")


def _leakage(train: Sequence[Row], validation: Sequence[Row], key_of: KeyOf) -> Iterator[Finding]:
    learned = {key for row in train for key in key_of(row)}
    leaked = [row for row in validation if learned & set(key_of(row))]
    yield from found("leakage", "error", leaked, "validation rows hold audio that is also trained on")


def _amounts(train: Sequence[Row], method: Method) -> Iterator[Finding]:
    least = FEWEST[method]
    if len(train) < least:
        severity: Severity = "error" if method == "projector" else "warning"
        why = "fewer break the model's alignment of audio and text" if method == "projector" else "fewer are memorised"
        message = f"rows to train on; the {method} method wants {least:,} or more ({why})"
        yield Finding("few_samples", severity, len(train), message, [], values={"least": least})
    if len(train) > 1 and len({row.response for row in train}) == 1:
        yield from found(
            "constant_label",
            "error",
            train,
            f"rows all have one answer: {train[0].response[:40]!r}",
            values={"answer": train[0].response[:40]},
        )


def _classes(train: Sequence[Row], validation: Sequence[Row]) -> Iterator[Finding]:
    classes = Counter(row.label for row in train if row.label)
    if len(classes) < 2:
        message = f"rows are of {'one' if classes else 'no'} class; a head tells two or more apart"
        yield from found("constant_label", "error", train, message, final=True, values={"classes": len(classes)})
    small = {name for name, count in classes.items() if count < FEWEST_OF_A_CLASS}
    names = ", ".join(sorted(small)[:EXAMPLES])
    few = [row for row in train if row.label in small]
    message = f"rows are of classes with fewer than {FEWEST_OF_A_CLASS} rows ({names})"
    yield from found("class_too_small", "warning", few, message, values={"least": FEWEST_OF_A_CLASS, "names": names})
    unseen = [row for row in validation if row.label and row.label not in classes]
    yield from found("unseen_class", "warning", unseen, "validation rows are of classes that are never trained on")


def answer(row: Row, method: Method) -> str:
    """The text that a row teaches."""
    return (row.label or "" if method == "head" else row.response).strip()
