"""A new version beside the current one of its name: their answers to the same rows, and which of them is to answer."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import AdapterNotFound, OvertoneError
from app.models.layout import AUDIO_TOWER
from app.models.loading import LoadedModel
from app.models.prompt import PromptRenderer
from app.registry.adapter import Adapter
from app.registry.adapter_files.plain_peft import PlainAdapter, read_plain, wrap
from app.registry.adapter_files.weights import WEIGHTS
from app.registry.base import Registry
from training.answers import Answerer
from training.audio_features import AudioFeatures
from training.examples import Example
from training.methods.forward import Forward
from training.reports.metrics import METRICS, figures, fitting

SETS = ("held_out", "corrected")


@dataclass(frozen=True)
class Answered:
    """Rows of both sets, held out and corrected, and the answers of one version to each."""

    held_out: list[str]
    corrected: list[str]


class Contest:
    """Asks the new version and the current one the same rows: those held out, and those that people corrected.

    ``current``: the version that answers now. The rows are as many as ``most`` of each set.
    """

    def __init__(
        self, registry: Registry, current: Adapter, held_out: Sequence[Example], rows: Sequence[Example], most: int
    ) -> None:
        self._registry = registry
        self.current = current
        self.held_out = list(held_out)[:most]
        self.corrected = [example for example in rows if example.row.corrected][:most]

    def answers(self, answerer: Answerer) -> Answered:
        """The answers of whatever adapter is on."""
        return Answered(answerer.answer(self.held_out), answerer.answer(self.corrected))

    def answers_of_current(
        self, loaded: LoadedModel, audio_features: AudioFeatures, renderer: PromptRenderer, tokens: int
    ) -> Answered | str:
        """The current version's answers, or the reason why it cannot be asked. The base must be bare by now."""
        owners = {path for path, _ in loaded.model.named_modules() if path}
        if self.current.report.serving == "classify":
            return "it is a classification head, which answers no questions in words"
        try:
            plain = self._registry.read_with(self.current, lambda folder: read_plain(folder, WEIGHTS, owners))
            if any(AUDIO_TOWER in path for path in plain.paths):
                return "it changes the audio tower, whose output is computed once for both"
            shell = _shell(loaded.model, plain)
            wrap(shell, plain)
        except OvertoneError as error:
            return str(error)
        return self.answers(Answerer(Forward(shell, audio_features), renderer, tokens))

    def report(self, new: Answered, current: Answered | str) -> dict[str, Any]:
        """Figures of both on each set, for the manifest. ``promoted``: the new version is worse on none of them."""
        report: dict[str, Any] = {"with": {"name": self.current.name, "version": self.current.version}}
        if isinstance(current, str):
            return report | {"promoted": False, "reason": f"the current version could not be asked: {current}"}
        worse = []
        for name in SETS:
            truths = [example.row.response for example in getattr(self, name)]
            if not truths:
                continue
            metric = fitting(truths)[0]
            values = [figures(truths, getattr(side, name), [metric])[metric].value for side in (current, new)]
            report[name] = {
                "rows": len(truths),
                "judged_by": metric,
                "current": round(values[0], 4),
                "new": round(values[1], 4),
            }
            if values[1] < values[0] if METRICS[metric][1] else values[1] > values[0]:
                worse.append(name)
        reason = f"worse than version {self.current.version} on rows that are {' and '.join(worse)}" if worse else None
        return report | {"promoted": not worse} | ({"reason": reason.replace("_", " ")} if reason else {})


def current_version(registry: Registry, name: str) -> Adapter | None:
    """The version of a name that answers now; None without one, and for a broken one."""
    try:
        return registry.current(name)
    except AdapterNotFound:
        return None


def sentences(report: dict[str, Any], name: str, version: int | None = None) -> list[str]:
    """The comparison in words, for people."""
    lines = [
        f"{key.replace('_', ' ')} rows ({report[key]['rows']}): {METRICS[report[key]['judged_by']][2]} "
        f"{100 * report[key]['current']:.1f} % with version {report['with']['version']}, "
        f"{100 * report[key]['new']:.1f} % with the new one"
        for key in SETS
        if key in report
    ]
    if not report["promoted"]:
        how = f"overtone adapters rollback {name} --version {version or 'N'}"
        lines.append(f"not promoted: {report['reason']}; version {report['with']['version']} stays. By hand: {how}")
    return lines


def _shell(model: Any, plain: PlainAdapter) -> Any:
    """A copy of the model's modules that shares all tensors but those that PEFT would write into."""
    parameters = [parameter for path, parameter in model.named_parameters() if path not in plain.paths]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in [*parameters, *model.buffers()]})
