"""The gate: data that would harm a model, or teach it nothing, is refused before training starts."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

from app.audio.decode import Limits
from training.data.checks.findings import CODES, EXAMPLES, RECORDINGS, Finding, GateReport, Severity, SplitUse, Values
from training.data.checks.row_checks import check_rows
from training.data.checks.sound_checks import (
    CLIPPED_SHARE,
    SHORT_SECONDS,
    Measured,
    Measures,
    Progress,
    audio_key,
    measure_all,
)
from training.data.records import Notes
from training.data.reference import Embed, reference_of, shipped
from training.data.rows import Row, Sound
from training.options import Method

__all__ = ["CODES", "Finding", "GateReport", "check"]

COMPARED = 128  # recordings, at most, whose embeddings are compared with the reference
FAR_SHARE = 0.1  # of them may lie far from it without a word


def check(
    train: Sequence[Row],
    validation: Sequence[Row],
    *,
    method: Method,
    rate: int,
    window_seconds: float,
    limits: Limits,
    long_audio: Literal["split", "reject"] = "split",
    measured: Measured | None = None,
    embed: Embed | None = None,
    progress: Progress | None = None,
    notes: Notes | None = None,
    splits: Sequence[SplitUse] = (),
) -> GateReport:
    """Everything that is wrong with the data.

    ``rate`` in Hz and ``window_seconds`` are the encoder's. ``measured``: of all rows by `measure_all`, where the
    caller has it; else every recording is decoded here. ``embed``: embeddings of recordings by the base model, to
    compare them with the reference. ``notes`` and ``splits``: what reading left to report.
    """
    rows = [*train, *validation]
    measured = measure_all(rows, rate=rate, limits=limits, progress=progress) if measured is None else measured
    places = _places(rows)
    findings = [*_sounds(measured, places, method, window_seconds, long_audio)]
    findings += check_rows(train, validation, method, partial(audio_key, measured=measured))
    if embed:
        learned = dict.fromkeys(sound for row in train for sound in row.sounds)
        findings += _far([sound for sound in learned if _usable(measured[sound])], places, embed)
    notes = notes or Notes()
    findings += _left_out(notes)
    order = list(CODES)
    return GateReport(
        rows=len(train),
        validation_rows=len(validation),
        clips=len(places),
        seconds=round(sum(one.seconds for one in map(measured.__getitem__, places) if isinstance(one, Measures)), 1),
        findings=sorted(findings, key=lambda finding: (finding.severity, order.index(finding.code))),
        classes=dict(Counter(row.label for row in train if row.label)) if method == "head" else {},
        splits=list(splits),
        idle_fields=sorted(notes.idle),
        remarks=list(notes.remarks),
    )


def _places(rows: Sequence[Row]) -> dict[Sound, str]:
    """The first place of each recording."""
    places: dict[Sound, str] = {}
    for row in rows:
        for sound in row.sounds:
            places.setdefault(sound, row.place if row.place.endswith(sound.name) else f"{row.place} ({sound.name})")
    return places


def _sounds(
    measured: Measured,
    places: Mapping[Sound, str],
    method: Method,
    window: float,
    long_audio: Literal["split", "reject"],
) -> Iterator[Finding]:
    """Findings about recordings."""
    broken = {sound: reason for sound in places if isinstance(reason := measured[sound], str)}
    if broken:
        examples = [f"{places[sound]}: {broken[sound]}" for sound in list(broken)[:EXAMPLES]]
        names = [sound.name for sound in list(broken)[:RECORDINGS]]
        yield Finding("unreadable", "error", len(broken), "recordings cannot be read", examples, True, names)
    long_words = "each is cut in its pauses" if long_audio == "split" else "shorten them"
    values: dict[str, Values] = {"too_long": {"seconds": window}}
    checks: list[tuple[str, Severity, str, Callable[[Measures], bool]]] = [
        ("silent", "error", "recordings are silent", lambda one: one.silent),
        (
            "noise_only",
            "warning" if method == "head" else "error",  # a class of sounds may be rain
            "recordings are steady noise: no speech, no event",
            lambda one: one.noise,
        ),
        (
            "clipped",
            "warning",
            f"recordings are clipped (over {CLIPPED_SHARE:.0%} of the samples)",
            lambda one: one.clipped > CLIPPED_SHARE,
        ),
        (
            "too_long",
            "warning" if long_audio == "split" else "error",
            f"recordings are longer than the encoder's {window:g} s; {long_words}",
            lambda one: one.seconds > window,
        ),
        (
            "too_short",
            "warning",
            f"recordings are shorter than {SHORT_SECONDS} s",
            lambda one: one.seconds < SHORT_SECONDS,
        ),
    ]
    shorter = [sound for sound in places if isinstance(one := measured[sound], Measures) and _states_less(sound, one)]
    message = "recordings last longer than their rows' duration: name the part by start and end, or allow this"
    yield from _about(shorter, places, "length_differs", "error", message)
    for code, severity, message, is_so in checks:
        hits = [sound for sound in places if isinstance(one := measured[sound], Measures) and is_so(one)]
        yield from _about(hits, places, code, severity, message, values.get(code))


def _about(
    sounds: Sequence[Sound],
    places: Mapping[Sound, str],
    code: str,
    severity: Severity,
    message: str,
    values: Values | None = None,
) -> Iterator[Finding]:
    """A finding over recordings; nothing without any."""
    if sounds:
        names = [sound.name for sound in sounds[:RECORDINGS]]
        told = [places[sound] for sound in sounds[:EXAMPLES]]
        yield Finding(code, severity, len(sounds), message, told, recordings=names, values=values or {})


def _states_less(sound: Sound, one: Measures) -> bool:
    """True if a row's duration is so much less than the recording's that it may mean a part; NeMo cuts there."""
    return sound.stated is not None and sound.stated < one.seconds - max(0.5, 0.1 * one.seconds)


def _left_out(notes: Notes) -> Iterator[Finding]:
    """Findings about content of the source that no row is made of."""
    if notes.passed_over:
        some = [f"{name}: {why}" for name, why in notes.passed_over[:EXAMPLES]]
        yield Finding("passed_over", "warning", len(notes.passed_over), "files or rows were passed over", some)
    if notes.unknown:
        some = [f"{name} (in {count:,} rows)" for name, count in notes.unknown.most_common(EXAMPLES)]
        yield Finding("unused_fields", "warning", len(notes.unknown), "fields are unknown and were not used", some)


def _usable(one: Measures | str) -> bool:
    return isinstance(one, Measures) and not one.silent


def _far(sounds: Sequence[Sound], places: Mapping[Sound, str], embed: Embed) -> Iterator[Finding]:
    """True if more than a few of the recordings lie far from the reference; a sample, evenly drawn."""
    if not sounds:
        return
    step = max(1, -(-len(sounds) // COMPARED))
    compared = sounds[::step]
    reference = reference_of(embed(shipped()))
    distances = reference.distances(embed(compared))
    far = [sound for sound, distance in zip(compared, distances, strict=True) if distance > reference.limit]
    if len(far) > FAR_SHARE * len(compared):
        message = f"of {len(compared)} recordings compared are unlike the speech that the base model knows"
        yield from _about(far, places, "out_of_distribution", "warning", message, {"compared": len(compared)})
