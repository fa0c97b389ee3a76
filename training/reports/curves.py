"""The curves of a run as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

Points = Sequence[tuple[float, float]]  # epoch or step, loss


def draw_curves(file: Path, runs: Mapping[str, tuple[Points, Points]]) -> None:
    """Write a PNG with one panel a run: training loss (thin), its running mean, held-out loss (dots)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(runs), 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, (train, held_out)) in enumerate(runs.items(), start=1):
        panel = figure.add_subplot(1, len(runs), place)
        if train:
            panel.plot(*zip(*train, strict=True), color="#9bb8d3", linewidth=0.8, label="training")
            panel.plot(*zip(*_smooth(train), strict=True), color="#1f5f99", linewidth=1.8, label="training, mean")
        if held_out:
            panel.plot(
                *zip(*held_out, strict=True), "o-", color="#d1602b", linewidth=1.4, markersize=4, label="held out"
            )
        by_epoch = len(train) == len(held_out)  # as heads tell them
        panel.set(title=name, xlabel="epoch" if by_epoch else "step", ylabel="cross entropy (nats)")
        panel.grid(alpha=0.25)
        panel.legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def _smooth(points: Points, share: float = 0.05) -> list[tuple[float, float]]:
    """Running mean over a share of the points."""
    width = max(1, round(share * len(points)))
    smoothed = []
    for place, (step, _) in enumerate(points):
        window = points[max(0, place - width + 1) : place + 1]
        smoothed.append((step, sum(loss for _, loss in window) / len(window)))
    return smoothed
