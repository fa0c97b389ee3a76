"""A classification head on the frozen tower: features, fit, calibration, figures.

The rows that figures are told of take no part in the fit. How long to train, and the temperature, are found by
cross-validation on the training rows: five heads, each fitted without a fifth of them, go through their epochs
side by side until what they say of the rows left out gets no better. The final head is fitted to all rows for as
many epochs.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import ValidationError

from app.errors import BadRequest
from app.models.head import Head, HeadConfig, apply, moments, pool
from training.audio_features import AudioFeatures
from training.data.rows import Row
from training.events import Events
from training.methods.classification import figures, fit_temperature
from training.options import TrainOptions

FOLDS = 5
LABELS_SHOWN = 20  # in the card's table


@dataclass(frozen=True)
class TrainedHead:
    """``metrics``: of the held-out rows, for the manifest. ``history``: epoch, training and cross-validated loss."""

    name: str
    task: str | None
    head: Head
    metrics: dict[str, Any]
    history: list[tuple[int, float, float]]

    def save(self, folder: Path) -> None:
        """Write the head's files and its card, ready to be published."""
        self.head.save(folder)
        (folder / "README.md").write_text(_card(self), encoding="utf-8")


def features_of(rows: Sequence[Row], audio_features: AudioFeatures) -> torch.Tensor:
    """Pooled tower features [rows, 2 * width] of the recording of each row, as the service pools them.

    Raises BadRequest for a row without exactly one recording, and what `AudioFeatures.extract` raises.
    """
    for row in rows:
        if len(row.sounds) != 1:
            raise BadRequest(f"{row.place}: a head takes one recording per row, here are {len(row.sounds)}.")
    recordings = audio_features.extract([sound for row in rows for sound in row.sounds])
    return torch.stack(
        [pool([moments(output) for output in audio_features.tower_output(clips)]) for clips in recordings]
    )


def labels_of(rows: Sequence[Row]) -> list[str]:
    """Each row's label. Raises BadRequest for a row without."""
    labels = [(row.label or "").strip() for row in rows]
    for row, label in zip(rows, labels, strict=True):
        if not label:
            raise BadRequest(f"{row.place}: there is no label; a head needs one in every row.")
    return labels


def train_head(
    features_train: torch.Tensor,
    labels_train: Sequence[str],
    features_val: torch.Tensor,
    labels_val: Sequence[str],
    options: TrainOptions,
    events: Events,
) -> TrainedHead:
    """Fit, calibrate and judge a head over features [rows, 2 * width]. The same bits for the same seed.

    Raises BadRequest for fewer than two labels, a label with one training row only, one that occurs in the
    held-out rows alone, or no held-out rows.
    """
    names = _names(labels_train, labels_val)
    place = {name: index for index, name in enumerate(names)}
    y, y_val = (torch.tensor([place[label] for label in labels]) for labels in (labels_train, labels_val))
    config = _config(names, features_train.shape[1] // 2, options)
    mean, scale = _standard(features_train)
    data = _Rows((features_train - mean) / scale, y, len(y) / (len(names) * y.bincount().float()))
    events.emit("start", method="head", rows=len(y), held_out=len(y_val), labels=dict(Counter(labels_train)))
    with _one_thread():
        epochs, logits, history = _cross_validate(data, config, options, events)
        fit = _Fit(data, config, options)
        for _ in range(epochs):
            fit.epoch()
    calibrated = config.model_copy(update={"temperature": fit_temperature(logits, y)})
    head = Head(calibrated, {"mean": mean, "scale": scale, **fit.tensors()})
    said = head.logits(features_val)
    commonest = int(y.bincount().argmax())
    metrics = figures(said, y_val, commonest, names, calibrated.temperature, options.seed)
    loss = float(F.cross_entropy(said / calibrated.temperature, y_val))
    events.emit("eval", step=epochs, loss=round(loss, 5), best=True, metrics=metrics)
    return TrainedHead(options.name, options.task, head, metrics, history)


@dataclass(frozen=True)
class _Rows:
    """``x``: standardised features [rows, 2 * width]; ``y``: classes [rows]; ``weights`` [labels] balance those."""

    x: torch.Tensor
    y: torch.Tensor
    weights: torch.Tensor

    def where(self, chosen: torch.Tensor) -> "_Rows":
        return _Rows(self.x[chosen], self.y[chosen], self.weights)

    def loss(self, logits: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, self.y, self.weights)


class _Fit:
    """AdamW over one head; a linear one begins at zero."""

    def __init__(self, data: _Rows, config: HeadConfig, options: TrainOptions) -> None:
        self._data, self._batch = data, options.batch
        self._random = torch.Generator().manual_seed(options.seed)
        shapes = {name: shape for name, shape in config.shapes.items() if name not in ("mean", "scale")}
        self._parameters = {name: torch.zeros(shape) for name, shape in shapes.items()}
        if config.hidden:
            for weight in (tensor for tensor in self._parameters.values() if tensor.dim() == 2):
                torch.nn.init.xavier_uniform_(weight, generator=self._random)
        for parameter in self._parameters.values():
            parameter.requires_grad_()
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self._parameters.values() if p.dim() == 2]},
            {"params": [p for p in self._parameters.values() if p.dim() == 1], "weight_decay": 0.0},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=options.rate, weight_decay=options.weight_decay)

    def epoch(self) -> float:
        """One pass over the rows in random order; the balanced loss on the way."""
        total = torch.zeros(())
        order = torch.randperm(len(self._data.y), generator=self._random)
        for rows in torch.split(order, self._batch):
            batch = self._data.where(rows)
            self._optimiser.zero_grad(set_to_none=True)
            loss = batch.loss(apply(self._parameters, batch.x))
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()
            total += loss.detach() * batch.weights[batch.y].sum()
        return float(total / self._data.weights[self._data.y].sum())

    @torch.no_grad()
    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return apply(self._parameters, x)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}


def _cross_validate(
    data: _Rows, config: HeadConfig, options: TrainOptions, events: Events
) -> tuple[int, torch.Tensor, list[tuple[int, float, float]]]:
    """The best number of epochs, the logits [rows, labels] of left-out rows then, and the losses of each epoch."""
    folds = _folds(data.y, options.seed)
    fits = [_Fit(data.where(folds != fold), config, options) for fold in range(int(folds.max()) + 1)]
    epochs = max(1, round(options.epochs))
    if options.max_steps:
        epochs = min(epochs, max(1, options.max_steps // math.ceil(len(data.y) / options.batch)))
    best, best_loss, kept = 0, math.inf, torch.empty(0)
    history, began = [], time.monotonic()
    for epoch in range(1, epochs + 1):
        train = sum(fit.epoch() for fit in fits) / len(fits)
        logits = torch.empty(len(data.y), len(config.labels))
        for fold, fit in enumerate(fits):
            logits[folds == fold] = fit.logits(data.x[folds == fold])
        loss = float(data.loss(logits))
        history.append((epoch, train, loss))
        if loss < best_loss:
            best, best_loss, kept = epoch, loss, logits
        left = (epochs - epoch) * (time.monotonic() - began) / epoch
        events.emit(
            "step",
            step=epoch,
            steps=epochs,
            epoch=epoch,
            loss=round(train, 5),
            lr=options.rate,
            eta_seconds=round(left, 1),
        )
        events.emit("eval", step=epoch, loss=round(loss, 5), best=best == epoch, metrics={})
        if epoch - best >= options.patience:
            break
    return best, kept, history


@contextmanager
def _one_thread() -> Iterator[None]:
    """Steps this small are slower on several threads, and sums would depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _folds(y: torch.Tensor, seed: int) -> torch.Tensor:
    """The fold of each row: every class is dealt out evenly, in random order."""
    count = min(FOLDS, int(y.bincount().min()))
    drawn = torch.Generator().manual_seed(seed)
    folds = torch.empty_like(y)
    for label in range(int(y.max()) + 1):
        rows = (y == label).nonzero()[:, 0]
        folds[rows[torch.randperm(len(rows), generator=drawn)]] = torch.arange(len(rows)) % count
    return folds


def _standard(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each feature; 1 for one that never changes."""
    deviation, mean = torch.std_mean(features.double(), dim=0, correction=0)
    changes = deviation > 1e-6 * (1 + mean.abs())
    return mean.float(), torch.where(changes, deviation, 1.0).float()


def _names(train: Sequence[str], held_out: Sequence[str]) -> list[str]:
    """The labels in order, when they can be learned and measured."""
    counts = Counter(train)
    if len(counts) < 2:
        raise BadRequest(f"A head needs two labels at least; the training rows have {len(counts)}.")
    if rare := sorted(label for label, count in counts.items() if count < 2):
        raise BadRequest(f"Too few training rows for {', '.join(map(repr, rare[:5]))}: two for each label at least.")
    if unknown := sorted(set(held_out) - counts.keys()):
        raise BadRequest(f"No training row has the held-out label {', '.join(map(repr, unknown[:5]))}.")
    if not held_out:
        raise BadRequest("There are no held-out rows to measure the head on.")
    return sorted(counts)


def _config(names: Sequence[str], width: int, options: TrainOptions) -> HeadConfig:
    try:
        return HeadConfig(labels=tuple(names), width=width, hidden=options.hidden)
    except ValidationError as error:
        raise BadRequest(f"These labels cannot be served: {error.errors()[0]['msg']}.") from None


def _card(trained: TrainedHead) -> str:
    """The README of a head: its labels, and how well it tells them apart."""
    metrics, config = trained.metrics, trained.head.config
    kind = f"{config.hidden} hidden units" if config.hidden else "linear"
    before, after, calibration = metrics["before"], metrics["after"], metrics["calibration"]
    return f"""# {trained.name}

{trained.task or "A classification head."} It sits on the frozen audio tower of its base model ({kind};
mean and standard deviation of {config.width} features over time) and is asked at `POST /classify`.

Measured on {metrics["rows"]} held-out recordings; in brackets the 95 % interval
(bootstrap over rows; Wilson's where all are alike):

| | always the commonest label | this head |
| --- | --- | --- |
| accuracy | {before["accuracy"]} | {after["accuracy"]} {after["accuracy_range"]} |
| macro F1 | {before["macro_f1"]} | {after["macro_f1"]} {after["macro_f1_range"]} |

Expected calibration error: {calibration["error_after"]} ({calibration["error_before"]} before its temperature of
{calibration["temperature"]:.3g} was set). Training weighs all labels alike, however common each is.
{_confusion(config.labels, metrics["confusion"]["rows_are_true"]) if len(config.labels) <= LABELS_SHOWN else ""}"""


def _confusion(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    lines = [[r"true \\ said", *labels], ["---"] * (len(labels) + 1)]
    lines += [[label, *map(str, row)] for label, row in zip(labels, matrix, strict=True)]
    return "".join(f"\n| {' | '.join(line)} |" for line in lines) + "\n"
