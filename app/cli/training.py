"""`overtone train` and `overtone compare-methods`: the training program, in this process's place."""

import os
import sys

import typer

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def train(context: typer.Context) -> None:
    """Train an adapter from recordings (see overtone train --help)."""
    become("train", context.args)


def compare_methods(context: typer.Context) -> None:
    """Run LoRA, projector and head on the same data and compare them."""
    become("compare-methods", context.args)


def sample_data(context: typer.Context) -> None:
    """Write a small data set to try training on."""
    become("sample-data", context.args)


def become(command: str, arguments: list[str]) -> None:
    """Run `python -m training` in this process's place: serving never imports training, which has needs of its own."""
    os.execv(sys.executable, [sys.executable, "-m", "training", command, *arguments])  # noqa: S606, our own program
