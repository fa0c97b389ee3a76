"""One run, from a source of rows to a version in the registry."""

import math
import time
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from app.errors import BadRequest, DatasetError, OvertoneError
from app.models.device_memory import cap_allocator, left_bytes
from app.models.features import FeatureExtractor
from app.models.loading import LoadedModel, load, pick_dtype, processor_of
from app.models.prompt import PromptRenderer
from app.models.shape import shape_of
from app.models.training_memory import STATE
from app.registry.adapter import Adapter
from app.registry.adapter_files.plain_peft import PlainAdapter, read_plain
from app.registry.adapter_files.weights import WEIGHTS
from app.registry.base import Registry
from app.registry.rules import check_name
from app.settings import Settings
from training.answers import Answerer
from training.audio_features import AudioFeatures
from training.batches import epoch
from training.data.checks.findings import GateReport
from training.data.checks.sound_checks import Progress as Counted
from training.data.reference import tower_embedding
from training.data.rows import Row
from training.evaluation import Answers, Exam, Side, general_rows
from training.events import Events, TrainingFailed
from training.examples import Example, make_examples
from training.methods.classifier import features_of, labels_of, train_head
from training.methods.forward import Forward
from training.methods.peft_model import Adapted
from training.micro_batches import MicroBatches, plan_micro_batches
from training.options import Places, TrainOptions
from training.prepare import Data, audio_limits, judge, read_data
from training.promotion import Contest, current_version, sentences
from training.publish import open_registry, publish, push_to_hub, write_card
from training.reports.curves import draw_curves
from training.reports.outcome import Outcome, Trained
from training.trainer import Cancelled, Progress, Trainer, checkpoint_options
from training.workers import Workers, join, launched


class BaseChanged(OvertoneError):
    """The base model is not what it was before training: a defect, so nothing is published."""


class Run:
    """Holds what the stages of one run share; models are loaded when they are first needed."""

    def __init__(
        self, options: TrainOptions, places: Places, settings: Settings, events: Events, counted: Counted | None = None
    ) -> None:
        check_name(options.name)
        self.options, self.places, self.settings, self.events = options, places, settings, events
        self._counted = counted
        self._trainer: Trainer | None = None
        if options.method == "head" and launched()[1] > 1:
            raise BadRequest("A head takes one process, and seconds: train it without accelerate launch.")
        self.device = join(settings.device)
        self.workers = Workers()

    def cancel(self, code: int) -> None:
        """Stop after the current step with a checkpoint; outside the steps, at once. Raises Cancelled then."""
        self.workers.told_to_stop = time.monotonic()
        if self._trainer is None or self._trainer.cancelled:
            raise Cancelled(code)
        self._trainer.cancelled = code

    @cached_property
    def processor(self) -> Any:
        return processor_of(self.settings.model)

    @cached_property
    def loaded(self) -> LoadedModel:
        from transformers.utils import logging

        logging.disable_progress_bar()
        if self.device.type == "cuda":
            cap_allocator(self.device, self.settings.gpu_gb)
        weights = self.options.weights or self.settings.weights
        return load(self.settings.model, self.device, pick_dtype(self.settings.dtype, self.device), weights)

    @cached_property
    def registry(self) -> Registry:
        return open_registry(self.places.registry, self.loaded.spec, self.settings)

    @cached_property
    def audio_features(self) -> AudioFeatures:
        cache = self.places.work.parent / ".heard"
        trained = self.options.include_audio_tower
        return AudioFeatures(self.loaded, audio_limits(self.settings), cache, tower_trained=trained)

    @cached_property
    def data(self) -> Data:
        return read_data(self.options, FeatureExtractor(self.processor), self.settings, self._counted)

    @cached_property
    def start(self) -> PlainAdapter | None:
        """The adapter that training goes on from; None: a new one. Raises BadRequest for one that cannot be."""
        if self.options.start == "base":
            return None
        current = current_version(self.registry, self.options.name)
        if current is None or current.report.serving == "classify":
            raise BadRequest(f"No LoRA adapter answers under {self.options.name!r} now; leave start=current out.")
        owners = {path for path, _ in self.loaded.model.named_modules() if path}
        return self.registry.read_with(current, lambda folder: read_plain(folder, WEIGHTS, owners))

    def check(self) -> GateReport:
        """Read the data and pass the gate; the first process judges for all. Raises DatasetError or DataRefused."""
        if len(set(self.workers.gather(self.data.fingerprint))) > 1:
            raise DatasetError(f"The processes find different data at {self.options.data}.")
        report = None
        if self.workers.first:
            features = FeatureExtractor(self.processor)
            report = judge(self.data, self.options, features, self.settings, self.events, self._embed)
        judged = self.workers.broadcast(report)
        assert judged is not None
        return judged

    def run(self) -> Outcome | None:
        """All of it; None in processes beside the first.

        Raises Cancelled with a checkpoint kept, or an OvertoneError; nothing is published then.
        """
        self.check()
        trained = self._head() if self.options.method == "head" else self._adapter()
        if trained is None:
            return None
        adapter = self._publish(trained)
        self.checkpoint.unlink(missing_ok=True)
        outcome = Outcome(adapter, trained)
        self.events.emit("done", adapter=outcome.told()["adapter"], metrics=trained.metrics)
        self._push(adapter)
        return outcome

    @property
    def checkpoint(self) -> Path:
        return self.places.work / "checkpoint.pt"

    def _embed(self) -> Any:
        return tower_embedding(self.audio_features)

    def _publish(self, trained: Trained) -> Adapter:
        draw_curves(self.places.work / "curves.png", {self.options.name: (trained.train, trained.held_out)})
        weights, hold = self.loaded.spec.weights, not trained.promoted
        return publish(self.registry, trained.folder, self.options, self.data, trained.metrics, weights, hold=hold)

    def _push(self, adapter: Adapter) -> None:
        if self.options.push_to_hub:
            folder = self.places.registry / adapter.name
            self.events.emit("pushed", url=push_to_hub(folder, self.options.push_to_hub))

    def _head(self) -> Trained:
        train, held_out = self.data.train, self.data.validation
        features = [features_of(rows, self.audio_features) for rows in (train, held_out)]
        head = train_head(features[0], labels_of(train), features[1], labels_of(held_out), self.options, self.events)
        folder = self.places.work / "adapter"
        head.save(folder)
        losses = [[(number, loss[side]) for number, *loss in head.history] for side in (0, 1)]
        facts = {"parameters": sum(tensor.numel() for tensor in head.head.tensors.values())}
        return Trained(folder, head.metrics, losses[0], losses[1], facts)

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """Rows as the model sees them, their recordings encoded, by all processes together."""
        self.audio_features.extract_together([sound for row in rows for sound in row.sounds], self.workers)
        return make_examples(rows, self.audio_features, PromptRenderer(self.loaded.processor))

    def exam(self, held_out: Sequence[Example]) -> Exam:
        """The questions to base and adapter: some of the held-out rows, and the general questions."""
        renderer = PromptRenderer(self.loaded.processor)
        answerer = Answerer(Forward(self.loaded.model, self.audio_features), renderer, self.options.max_new_tokens)
        general = make_examples(general_rows(), self.audio_features, renderer)
        return Exam(answerer, held_out[: self.options.evaluate_rows], general, self._examined)

    def contest(self, train: Sequence[Example], held_out: Sequence[Example]) -> Contest | None:
        """The comparison with the version that answers now; None without one, or where none is asked for."""
        current = current_version(self.registry, self.options.name) if self.options.promote == "not_worse" else None
        rows = [*train, *held_out]
        return Contest(self.registry, current, held_out, rows, self.options.evaluate_rows) if current else None

    def trainer(self, train: Sequence[Example], held_out: Sequence[Example]) -> tuple[Adapted, Trainer]:
        """Adapter and trainer, seeded; with the rate that suits the model's width."""
        torch.manual_seed(self.options.seed)
        options = self.options.for_width(self.loaded.model.config.get_text_config().hidden_size)
        options = options.model_copy(update={"weights": self.loaded.spec.weights})
        adapted = Adapted(self.loaded, options, self.start)
        forward = Forward(self.loaded.model, self.audio_features)
        self._refuse_other_checkpoint(options)
        if options.eva and not self.checkpoint.is_file():
            adapted.initialise(epoch(train, options.batch, options.seed, 0)[:16], forward)
        planned = self._micro_batches(adapted, [*train, *held_out])
        trainer = Trainer(
            adapted, forward, train, held_out, options, self.events, self.checkpoint, self.workers, planned
        )
        return adapted, trainer

    def _micro_batches(self, adapted: Adapted, rows: Sequence[Example]) -> MicroBatches | None:
        """The micro-batches for the memory that a GPU has left; None on a CPU."""
        left = left_bytes(self.device, self.settings.gpu_gb)
        if left is None:
            return None
        shape = shape_of(self.loaded.model.config, self.loaded.spec)
        numbers = sum(parameter.numel() for parameter in adapted.trainable.values())
        return plan_micro_batches(
            shape,
            rows,
            self.options.micro_tokens,
            left - STATE * numbers,
            itemsize=self.loaded.dtype.itemsize,
            tower_trained=self.options.include_audio_tower,
            weights=self.loaded.spec.weights,
        )

    def _refuse_other_checkpoint(self, options: TrainOptions) -> None:
        """A run goes on only from its own checkpoint."""
        found = checkpoint_options(self.checkpoint) if self.workers.first else None
        if found is not None and found.weights is None:  # written before there were formats
            found = found.model_copy(update={"weights": "bfloat16"})
        if found is not None and found != options:
            asked = options.model_dump()
            other = [key for key, value in found.model_dump().items() if value != asked[key]]
            raise BadRequest(
                f"{self.checkpoint} belongs to a run with other options ({', '.join(other)}). Use those to go on with "
                "it, delete it to start anew, or name another folder with --work."
            )

    def _adapter(self) -> Trained | None:
        """The adapter with its figures; the first process alone asks, watches and writes."""
        _ = self.start  # refuses before anything takes long
        train, held_out = self.examples(self.data.train), self.examples(self.data.validation)
        exam = self.exam(held_out) if self.workers.first else None
        before = exam.take("before") if exam else None
        adapted, trainer = self.trainer(train, held_out)
        if self.options.method == "projector" and exam and before:
            trainer.watch = partial(self._watch, adapted, exam, before)
        self.events.emit("start", **self._started(adapted, trainer))
        began = time.monotonic()
        self._trainer = trainer
        try:
            progress = trainer.run()
        finally:
            self._trainer = None
        seconds = time.monotonic() - began
        self._refuse_untrained(progress)
        if exam is None or before is None:
            return None
        return self._examine(adapted, exam, before, self.contest(train, held_out), progress, seconds)

    def _started(self, adapted: Adapted, trainer: Trainer) -> dict[str, Any]:
        trainable = sum(parameter.numel() for parameter in adapted.trainable.values())
        found = checkpoint_options(self.checkpoint) is not None
        return {
            "method": self.options.method,
            "weights": self.loaded.spec.weights,
            "start": self.options.start,
            "steps": trainer.steps,
            "rows": {"train": len(self.data.train), "validation": len(self.data.validation)},
            "trainable": trainable,
            "device": str(self.device),
            "processes": self.workers.count,
            "resumed": found,
        }

    def _refuse_untrained(self, progress: Progress) -> None:
        if not math.isfinite(progress.best_loss):
            why = progress.stopped or "no evaluation gave a finite loss"
            raise TrainingFailed(
                f"There is nothing to publish: {why}. Lower the learning rate "
                f"(--set learning_rate=…), or use more and better data."
            )

    def _examined(self, side: Side, done: int, total: int) -> None:
        self.events.emit("exam", side=side, done=done, total=total)

    def _examine(
        self,
        adapted: Adapted,
        exam: Exam,
        before: Answers,
        contest: Contest | None,
        progress: Progress,
        seconds: float,
    ) -> Trained:
        """Answers with the adapter, its files, and the proof that the base is untouched."""
        options = self.options
        metrics = exam.report(before, exam.take("after"), options.seed)
        new = contest.answers(exam.answerer) if contest else None
        folder = self.places.work / "adapter"
        adapted.save(folder)
        metrics["loss"] = {"best": round(progress.best_loss, 5), "step": progress.best_step}
        if options.method == "projector":
            metrics["drift"] = {key: round(value, 6) for key, value in adapted.drift().items()}
        trainable = sum(parameter.numel() for parameter in adapted.trainable.values())
        if adapted.unload() != adapted.before:
            raise BaseChanged("Training has changed the base model's weights; nothing was published. Report this.")
        if contest and new:
            renderer = PromptRenderer(self.loaded.processor)
            current = contest.answers_of_current(self.loaded, self.audio_features, renderer, options.max_new_tokens)
            metrics["comparison"] = contest.report(new, current)
        facts = {
            "trained parameters": f"{trainable:,}",
            "steps": f"{progress.step}, the best after {progress.best_step}"
            + (f" (stopped: {progress.stopped})" if progress.stopped else ""),
            "time": f"{seconds:.0f} s on {self.device.type}"
            + (f", {self.workers.count} processes" if self.workers.count > 1 else ""),
            "base weights": f"{_in_words(self.loaded)}; unchanged, bit for bit (`{adapted.before[:16]}`)",
        }
        if contest:
            facts["beside the version before"] = "; ".join(sentences(metrics["comparison"], options.name))
        write_card(folder, options, self.data, self.loaded.spec, metrics, facts)
        return Trained(folder, metrics, progress.train, progress.validation, facts)

    def _watch(self, adapted: Adapted, exam: Exam, before: Answers) -> str | None:
        """The reason why a projector's training must stop; None while it may go on."""
        drift, changed = adapted.drift(), exam.changed(before)
        self.events.emit("watch", **drift, general_answers_changed=round(changed, 4))
        moved, bounds = drift["relative_change"], self.options
        if moved > bounds.drift_bound:
            return f"the projector has moved by {moved:.1%}, the bound is {bounds.drift_bound:.1%}"
        if changed > bounds.retention_bound:
            return f"{changed:.0%} of the general answers have changed, the bound is {bounds.retention_bound:.0%}"
        return None


def _in_words(loaded: LoadedModel) -> str:
    """The format of the base's matrices."""
    weights = loaded.spec.weights
    return str(loaded.dtype).removeprefix("torch.") if weights == "bfloat16" else weights
