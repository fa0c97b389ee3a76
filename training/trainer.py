"""The training loop: steps, evaluations, checkpoints, early stop; bit for bit the same after a restart."""

import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from app.models.device_memory import is_out_of_memory
from training.batches import epoch, micro_batches
from training.events import Events, TrainingFailed
from training.examples import Example
from training.memory import peak_gb
from training.methods.forward import Forward, supervised
from training.methods.fused_projections import fused
from training.methods.peft_model import Adapted
from training.micro_batches import MicroBatches
from training.options import TrainOptions
from training.workers import Workers

CHECKPOINT_EVERY_S = 60.0


@dataclass
class Progress:
    """Progress of a run; everything of it is in the checkpoint."""

    step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    worse: int = 0  # evaluations since the best
    stopped: str | None = None
    refused: bool = False  # `watch` objects to the last parameters
    train: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)


class Cancelled(Exception):
    """The run was asked to stop; its checkpoint is kept. ``code``: the exit code."""

    def __init__(self, code: int) -> None:
        self.code = code


class Trainer:
    """AdamW over the trainable parameters, with a cosine schedule after a linear warm-up.

    A step's loss is the cross entropy summed over its supervised tokens, divided by their number: the
    same however the step is split into micro-batches or spread over processes.
    """

    def __init__(
        self,
        adapted: Adapted,
        forward: Forward,
        train: Sequence[Example],
        validation: Sequence[Example],
        options: TrainOptions,
        events: Events,
        checkpoint: Path,
        workers: Workers | None = None,
        planned: MicroBatches | None = None,
    ) -> None:
        """``planned``: for the device's memory; None: micro-batches as the options have them."""
        self.progress = Progress()
        self.cancelled = 0  # the exit code, once it was asked to stop
        self.watch: Callable[[], str | None] = lambda: None  # a reason to stop, asked at each evaluation
        self._adapted, self._forward, self._options = adapted, forward, options
        self._train, self._validation = train, validation
        self._events, self._checkpoint = events, checkpoint
        self._workers = workers or Workers()
        self._best = adapted.state()
        self._micro_tokens = planned.tokens if planned else options.micro_tokens
        if planned and planned.checkpointing:
            forward.checkpoint_activations()
        if planned and (planned.checkpointing or planned.tokens < options.micro_tokens):
            self._tell_memory()
        self._optimiser = torch.optim.AdamW(adapted.groups(), lr=options.rate, weight_decay=options.weight_decay)
        self._saved = time.monotonic()

    @property
    def steps_per_epoch(self) -> int:
        return len(epoch(self._train, self._options.batch, self._options.seed, 0))

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        steps = max(1, round(self._options.epochs * self.steps_per_epoch))
        return min(steps, self._options.max_steps or steps)

    def run(self) -> Progress:
        """Train to the end, or to an early stop; the best parameters, or the last, are in place afterwards.

        Raises Cancelled, with a checkpoint written, once `cancelled` is set.
        """
        self._workers.seed(self._options.seed)
        self._workers.spread(list(self._adapted.trainable.values()))
        if state := self._workers.broadcast(self._saved_state()):
            self._resume(state)
        with fused(self._forward.model, self._forward.device):
            self._all_steps()
        if self._options.keep == "best" or self.progress.refused:
            self._adapted.restore(self._best)
        return self.progress

    def _all_steps(self) -> None:
        began, first = time.monotonic(), self.progress.step
        while self.progress.step < self.steps and not self.progress.stopped:
            if self._workers.orphaned:
                self.cancelled = self.cancelled or 128 + signal.SIGTERM
            if code := int(self._workers.most(self.cancelled)):
                self._save()
                raise Cancelled(code)
            self._one(began, first)

    def _one(self, began: float, first: int) -> None:
        """One step, its event, and an evaluation at the end of each epoch and of the run."""
        progress = self.progress
        number, place = divmod(progress.step, self.steps_per_epoch)
        rows = epoch(self._train, self._options.batch, self._options.seed, number)[place]
        started = time.monotonic()
        loss = self.step(rows)
        if not math.isfinite(loss):
            raise TrainingFailed(
                f"The loss is {loss} at step {progress.step + 1}: lower the learning rate "
                f"(--set learning_rate={self._options.rate / 4:.1g}). Nothing was published."
            )
        seconds = time.monotonic() - started
        progress.step += 1
        progress.train.append((progress.step, loss))
        done, left = progress.step - first, self.steps - progress.step
        self._events.emit(
            "step",
            step=progress.step,
            steps=self.steps,
            epoch=round(progress.step / self.steps_per_epoch, 3),
            loss=round(loss, 5),
            lr=self._optimiser.param_groups[0]["lr"],
            tokens_per_second=round(sum(len(row.ids) for row in rows) / seconds, 1),
            eta_seconds=round(left * (time.monotonic() - began) / done, 1),
            memory_gb=round(peak_gb(self._forward.device), 2),
        )
        if place + 1 == self.steps_per_epoch or progress.step == self.steps:
            self._evaluate()
            self._save()
        elif self._workers.most(time.monotonic() - self._saved) > CHECKPOINT_EVERY_S:
            self._save()

    def step(self, rows: Sequence[Example]) -> float:
        """One optimiser step; the loss per supervised token."""
        self._adapted.peft.train()
        rate = self._options.rate * schedule(self.progress.step, self.steps, self._options.warmup)
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        total = self._gradients(rows)
        parameters = list(self._adapted.trainable.values())
        self._workers.add_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, self._options.clip_norm)
        self._optimiser.step()
        return self._workers.add(total)

    def _gradients(self, rows: Sequence[Example]) -> float:
        """This process's share of a step's loss, its gradients in place; again in smaller pieces when memory ends."""
        tokens = supervised(rows)

        def attempt() -> float:
            self._optimiser.zero_grad(set_to_none=True)
            total = 0.0
            for piece in self._pieces(rows):
                loss = self._forward.loss(piece) / tokens
                loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
            return total

        return self._fitting(rows, attempt)

    def _fitting(self, rows: Sequence[Example], attempt: Callable[[], float]) -> float:
        """The result of ``attempt`` at ``rows``, made again with less in memory as long as that runs out.

        Raises TrainingFailed when one row alone is too much.
        """
        while True:
            try:
                return attempt()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # not while the exception is handled: its frames hold the activations that are to be freed
            self._spare_memory(max(len(row.ids) for row in rows))

    def _pieces(self, rows: Sequence[Example]) -> list[list[Example]]:
        """This process's micro-batches; neighbours by length go to different processes, so that none waits long."""
        share = self._workers.share(sorted(rows, key=lambda row: len(row.ids)))
        return list(micro_batches(share, self._micro_tokens))

    def _spare_memory(self, longest: int) -> None:
        """Halve the micro-batches; where one row alone is too much, keep fewer activations."""
        if self._micro_tokens > longest:
            self._micro_tokens //= 2
        elif not self._forward.checkpointing:
            self._forward.checkpoint_activations()
        else:
            raise TrainingFailed(
                f"One row of {longest} tokens does not fit this device's memory, even with gradient checkpointing. "
                "Shorten the recordings, lower the rank, or free the device."
            )
        torch.cuda.empty_cache()
        self._tell_memory()

    def _tell_memory(self) -> None:
        self._events.emit("memory", micro_tokens=self._micro_tokens, checkpointing=self._forward.checkpointing)

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean cross entropy per supervised token on the held-out rows."""
        self._adapted.peft.eval()
        rows = self._validation
        own = self._fitting(rows, lambda: sum(float(self._forward.loss(piece)) for piece in self._pieces(rows)))
        return self._workers.add(own) / supervised(rows)

    def _evaluate(self) -> None:
        """The loss on the held-out rows; parameters that `watch` objects to are never the best."""
        progress = self.progress
        loss = self.validation_loss()
        progress.validation.append((progress.step, loss))
        progress.stopped = self._workers.broadcast(self.watch())
        progress.refused = progress.stopped is not None
        if not progress.stopped and loss < progress.best_loss:
            progress.best_loss, progress.best_step, progress.worse = loss, progress.step, 0
            self._best = self._adapted.state()
        else:
            progress.worse += 1
        self._events.emit("eval", step=progress.step, loss=round(loss, 5), best=progress.worse == 0, metrics={})
        if progress.worse >= self._options.patience and not progress.stopped:
            progress.stopped = f"no better for {progress.worse} evaluations"

    def _save(self) -> None:
        """Write the checkpoint; a kill leaves the old one or the new one whole."""
        self._saved = time.monotonic()
        random = self._workers.gather(self._random())
        if not self._workers.first:
            return
        state: dict[str, Any] = {
            "options": self._options.model_dump_json(),
            "progress": asdict(self.progress),
            "parameters": self._adapted.state(),
            "best": self._best,
            "optimiser": self._optimiser.state_dict(),
            "random": random,
        }
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._checkpoint.with_suffix(".writing")
        torch.save(state, temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(self._checkpoint)

    def _saved_state(self) -> dict[str, Any] | None:
        """The checkpoint; the first process reads it for all."""
        if not self._workers.first or not self._checkpoint.is_file():
            return None
        state: dict[str, Any] = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
        return state

    def _resume(self, state: dict[str, Any]) -> None:
        self.progress = Progress(**state["progress"])
        self._adapted.restore(state["parameters"])
        self._best = state["best"]
        self._optimiser.load_state_dict(state["optimiser"])
        if self._workers.rank < len(state["random"]):  # a run may go on with more processes
            self._set_random(state["random"][self._workers.rank])

    def _random(self) -> list[torch.Tensor]:
        """States of this process's random number generators: the CPU's, then its GPU's."""
        device = self._forward.device
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]

    def _set_random(self, states: Sequence[torch.Tensor]) -> None:
        torch.set_rng_state(states[0])
        if len(states) > 1 and self._forward.device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self._forward.device)


def checkpoint_options(checkpoint: Path) -> TrainOptions | None:
    """The options of the run that wrote a checkpoint; None without one."""
    if not checkpoint.is_file():
        return None
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return TrainOptions.model_validate_json(state["options"])


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate at a step: linear warm-up, then a cosine to zero."""
    warm = round(warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
