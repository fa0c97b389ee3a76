"""`overtone plan`: the table for a model that is nowhere loaded, and the numbers that the engine plans with."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from app.cli.main import app
from app.engine.config import EngineConfig
from app.engine.memory import plan
from app.models.shape import shape_from
from app.settings import EMBEDDED_MODEL, Settings

CONSOLE = {"COLUMNS": "80", "TERM": "dumb"}


def run(*words, code=0):
    result = CliRunner().invoke(app, ["plan", *map(str, words)], env=CONSOLE)
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture(scope="module")
def seven():
    """The facts for 7B on 24 GB."""
    return json.loads(run("random:7b", "--gpu-gb", "24", "--json"))


def test_the_numbers_are_those_that_a_server_plans_with(seven):
    limits = EngineConfig(32, 64, 256, 1024, 8192, 1, 256 << 20)  # the settings' defaults
    (card,) = seven["cards"]
    assert card["gpu_gb"] == 24.0
    for weights, facts in card["weights"].items():
        found = plan(shape_from("random:7b"), limits, torch.bfloat16, 24 * 10**9, weights=weights)
        assert facts["bytes"] == {**found.parts, "all": found.total}
        assert (facts["clients"], facts["kv_tokens"]) == (found.clients, found.kv_tokens)
        asked = found.applied(limits)
        assert facts["settings"] == {
            "OVERTONE_MAX_BATCH": asked.max_batch,
            "OVERTONE_STEP_TOKENS": asked.step_tokens,
            "OVERTONE_ENCODER_CACHE_MB": asked.encoder_cache_bytes >> 20,
        }


def test_the_settings_that_it_names_are_settings_and_give_the_same_plan(seven):
    """A server that is started with them has the same batch, and no smaller cache."""
    facts = seven["cards"][0]["weights"]["bfloat16"]
    named = {name.removeprefix("OVERTONE_").lower(): value for name, value in facts["settings"].items()}
    settings = Settings(_env_file=None, **named)
    limits = EngineConfig(
        32, settings.max_batch, 256, settings.step_tokens, 8192, 1, settings.encoder_cache_bytes,
    )  # fmt: skip
    again = plan(shape_from("random:7b"), limits, torch.bfloat16, 24 * 10**9)
    assert again.applied(limits) == limits
    assert again.clients >= facts["clients"]


@pytest.mark.parametrize("words", [("--gpu-gb", "16"), ()], ids=["one card", "several cards"])
def test_a_table_of_80_columns(words):
    text = run("random:audio-flamingo-3-8b", *words)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text, "a column was cut"
    for weights in ("bfloat16", "float8", "int8", "int4"):
        assert weights in text


def test_a_folder_with_nothing_but_its_configuration(tmp_path):
    shutil.copy(EMBEDDED_MODEL / "config.json", tmp_path)
    told = json.loads(run(tmp_path, "--gpu-gb", "8", "--json"))
    assert told["model"] == tmp_path.name
    assert told["parameters"] == shape_from(str(EMBEDDED_MODEL)).numbers
    assert told["cards"][0]["weights"]["bfloat16"]["fits"]


def test_what_does_not_fit_is_told_with_what_it_needs():
    facts = json.loads(run("random:7b", "--gpu-gb", "8", "--json"))["cards"][0]["weights"]["int4"]
    assert facts["fits"] is False
    assert 9.5e9 < facts["needed_bytes"] < 9.8e9
    assert "none" in run("random:7b", "--gpu-gb", "8")


def test_training_is_told_by_format(seven):
    needs = seven["training_bytes"]
    assert needs["bfloat16"] > needs["float8"] == needs["int8"] > needs["int4"]
    assert needs["bfloat16"] < 20e9
    assert "Fits: int4." in run("random:7b", "--gpu-gb", "12")


def test_a_model_that_is_not_known_is_refused_with_those_that_are():
    result = CliRunner().invoke(app, ["plan", "nobody/nothing"], env=CONSOLE)
    assert result.exit_code == 1
    assert "nobody/nothing" in result.output
    assert "Qwen/Qwen2-Audio-7B-Instruct" in result.output


def test_the_table_of_the_documents_is_what_the_command_says():
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) GB \| (.+) \|$", text.partition("### Which card")[2], re.MULTILINE))
    told = [json.loads(run(model, "--json")) for model in ("random:7b", "random:audio-flamingo-3-8b")]
    assert [float(card) for card in rows] == [card["gpu_gb"] for card in told[0]["cards"]]
    for place, row in enumerate(rows.values()):
        cells = []
        for facts in told:
            of_card = facts["cards"][place]["weights"]
            assert of_card["float8"] == of_card["int8"] or not of_card["int8"]["fits"]
            cells += [of_card[weights] for weights in ("bfloat16", "int8", "int4")]
        assert row.split(" | ") == [
            str(one["clients"]) if one["fits"] else f"needs {math.ceil(one['needed_bytes'] / 1e8) / 10:.1f}"
            for one in cells
        ]
