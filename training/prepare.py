"""From a source of rows to what a run trains on: read, split, decoded and measured, judged by the gate."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from hashlib import sha256
from pathlib import Path
from typing import Any

from app.audio.decode import Limits
from app.errors import BadRequest, DatasetError
from app.models.features import FeatureExtractor
from app.settings import Settings
from training.data.checks.findings import CODES, GateReport, SplitUse
from training.data.checks.gate import check
from training.data.checks.report import sentence
from training.data.checks.sound_checks import Measured, Progress, audio_key, measure_all
from training.data.readers import Source, read_source
from training.data.records import Notes
from training.data.reference import Embed
from training.data.rows import Row
from training.data.splitting import split, uses_of
from training.events import Events
from training.options import TrainOptions


class DataRefused(DatasetError):
    """The gate found what no run should learn from."""


@dataclass(frozen=True)
class Data:
    """``fingerprint``: of all texts and recordings, whatever their order and files.

    ``notes`` and ``splits``: what the sources hold besides, and how their splits are used.
    """

    train: list[Row]
    validation: list[Row]
    measured: Measured
    fingerprint: str
    notes: Notes = field(default_factory=Notes)
    splits: list[SplitUse] = field(default_factory=list)


def audio_limits(settings: Settings) -> Limits:
    """Limits of a recording, as the service has them."""
    return Limits(settings.max_audio_seconds, settings.max_upload_mb << 20, settings.max_decode_seconds)


def read_data(
    options: TrainOptions, features: FeatureExtractor, settings: Settings, progress: Progress | None = None
) -> Data:
    """All rows, each recording decoded and measured once. Raises DatasetError for rows that cannot be used."""
    source, *more = (_read(source, options) for source in (options.data, *options.also))
    other = _read(options.validation, options) if options.validation else None
    rows = _with_classes([row for one in (source, *more) for row in one.rows], options)
    held = _with_classes(other.rows, options) if other else None
    every = [*rows, *(held or [])]
    measured = measure_all(every, rate=features.sample_rate, limits=audio_limits(settings), progress=progress)
    key_of = partial(audio_key, measured=measured)
    train, validation = _sides(rows, held, options, key_of)
    if not train or not validation:
        raise DatasetError("One row must be left to train on and one to measure on; add rows.")
    notes = reduce(Notes.joined, [one.notes for one in (*more, *([other] if other else []))], source.notes)
    return Data(train, validation, measured, _fingerprint(every, key_of), notes, uses_of(every, train, validation))


def _read(source: str, options: TrainOptions) -> Source:
    roots = [Path(root) for root in options.audio_roots]
    roots.sort(key=lambda root: not Path(source).is_relative_to(root))  # the data set's own first
    return read_source(source, default_prompt=options.prompt, audio_roots=roots, head=options.method == "head")


def _with_classes(rows: Sequence[Row], options: TrainOptions) -> list[Row]:
    """For a head, an answer may be the class."""
    return [replace(row, label=row.label or row.response) for row in rows] if options.method == "head" else list(rows)


def _sides(
    rows: list[Row], held: list[Row] | None, options: TrainOptions, key_of: Callable[[Row], tuple[str, ...]]
) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out. Parts of one recording stay on one side, where there are several."""
    if held is not None:
        return [row for row in rows if row.split in (None, "train")], held
    share = partial(split, rows, fraction=options.validation_share, seed=options.seed)
    train, validation = share(key_of=lambda row: (*key_of(row), *_wholes(row)))
    return (train, validation) if validation else share(key_of=key_of)


def _wholes(row: Row) -> tuple[str, ...]:
    """The recordings that a row's parts are of."""
    return tuple(f"whole:{sound.name}" for sound in row.sounds if sound.start is not None or sound.end is not None)


def judge(
    data: Data,
    options: TrainOptions,
    features: FeatureExtractor,
    settings: Settings,
    events: Events,
    embed: Callable[[], Embed] | None = None,
) -> GateReport:
    """The gate's report; ``embed`` is asked for only when nothing else stops the run.

    Raises DataRefused, naming every finding that stops it, and BadRequest for an unknown code in ``allow``.
    """
    if unknown := sorted(set(options.allow) - CODES.keys()):
        raise BadRequest(f"--allow {','.join(unknown)}: the gate knows {', '.join(CODES)}.")
    ask: Any = partial(
        check,
        data.train,
        data.validation,
        method=options.method,
        rate=features.sample_rate,
        window_seconds=features.window_seconds,
        limits=audio_limits(settings),
        long_audio=settings.long_audio,
        measured=data.measured,
        notes=data.notes,
        splits=data.splits,
    )
    report: GateReport = ask()
    refused = report.refused(options.allow)
    if embed and not refused:
        report = ask(embed=embed())
    events.emit("gate", ok=not refused, report=report.to_dict(), allow=list(options.allow))
    if refused:
        raise DataRefused("The data gate refused the data", [sentence(finding) for finding in refused])
    return report


def _fingerprint(rows: Sequence[Row], key_of: Callable[[Row], tuple[str, ...]]) -> str:
    texts = ([(turn.role, turn.text, *([] if turn.learned else [False])) for turn in row.turns] for row in rows)
    lines = (
        json.dumps([text, row.label, key_of(row)], ensure_ascii=False) for text, row in zip(texts, rows, strict=True)
    )
    digest = sha256("\n".join(sorted(lines)).encode())
    return f"sha256:{digest.hexdigest()}"
