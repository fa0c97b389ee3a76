"""docs/capacity.md computes with what docs/performance.md has measured, and computes rightly."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
CAPACITY, PERFORMANCE = ((DOCS / name).read_text() for name in ("capacity.md", "performance.md"))
ANSWERS = (32, 128, 512)  # tokens


def measured(row: str) -> list[str]:
    """The cells of a row of the first table of performance.md, or of its waits."""
    line = next(line for line in PERFORMANCE.splitlines() if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_the_table_follows_from_the_formula_and_the_measurements():
    _, _, first_ms, rate, *_ = measured("32x8 | Overtone")
    prompt_5 = float(measured("first token of a 5 s clip, base / adapter")[1].split(" / ")[1].removesuffix(" ms"))
    assert f"{first_ms} ms until 32 requests" in CAPACITY
    assert f"{prompt_5} ms (*measured*, alone" in CAPACITY
    assert f"1 / {rate} tokens/s" in CAPACITY
    prompts = {5: prompt_5 / 1e3, 30: float(first_ms) / 1e3 / 32}
    prompts[15] = prompts[5] + (prompts[30] - prompts[5]) * (15 - 5) / (30 - 5)
    assert f"{1e3 * prompts[15]:.1f} ms (*derived*" in CAPACITY
    for seconds, prompt in prompts.items():
        expected = [f"{1 / (prompt + tokens / float(rate)):.1f}" for tokens in ANSWERS]
        assert f"| {seconds} s | {' | '.join(expected)} |" in CAPACITY


def test_the_check_against_a_measurement_is_the_one_that_was_made():
    _, _, first_ms, rate, *_ = measured("32x8 | Overtone")
    formula = 32 * 128 / (float(first_ms) / 1e3 + 32 * 128 / float(rate))
    found = measured("32 requests at once, 30 s clips, 128 tokens each, 8 adapters")[1].removesuffix(" tokens/s")
    assert f"give {formula:.0f} tokens/s by it, {found} were *measured*" in CAPACITY


def test_metrics_that_it_names_exist():
    """Gauges and counters of the engine, as app/api/metrics.py names them."""
    source = (DOCS.parent / "app" / "api" / "metrics.py").read_text()
    named = set(re.findall(r"overtone_([a-z_]+)`", CAPACITY))
    assert len(named) > 5
    for name in named:  # Prometheus adds _total to counters
        there = (f'"{name}"', f'"overtone_{name}"', f'"{name.removesuffix("_total")}"')
        assert any(one in source for one in there), name
