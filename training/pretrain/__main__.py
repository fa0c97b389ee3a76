"""`python -m training.pretrain`: the steps of the recipe, in the order of README.md."""

import argparse
import json
from pathlib import Path


def main() -> None:
    """Run one step; its imports happen only then, so that each step needs its own packages only."""
    parser = argparse.ArgumentParser(prog="python -m training.pretrain", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("lines", help="draw what will be said")
    step.add_argument("--human", type=Path, nargs="+", required=True, help="folders of test clips")
    step.add_argument("--count", type=int, default=120_000)
    step.add_argument("--seed", type=int, default=1)
    step.add_argument("--out", type=Path, required=True)
    step = steps.add_parser("build", help="write the folder with an untrained language model")
    step.add_argument("--lines", type=Path, required=True)
    step.add_argument("--tower", type=Path, required=True)
    step.add_argument("--out", type=Path, required=True)
    step = steps.add_parser("kokoro", help="record with Kokoro's voices (slow, hence beforehand)")
    step.add_argument("--lines", type=Path, required=True)
    step.add_argument("--minutes", type=float, default=40)
    step.add_argument("--out", type=Path, required=True)
    step = steps.add_parser("synth", help="say the lines")
    step.add_argument("--lines", type=Path, required=True)
    step.add_argument("--recorded", type=Path, help="manifest written by the step kokoro")
    step.add_argument("--workers", type=int, default=2)
    step.add_argument("--seed", type=int, default=0)
    step.add_argument("--no-unseen", action="store_true", help="do without the validation voice")
    step.add_argument("--out", type=Path, required=True)
    step = steps.add_parser("train", help="train the base; may run while synth still writes")
    step.add_argument("--start", type=Path, required=True)
    step.add_argument("--shards", type=Path, required=True)
    step.add_argument("--seconds", type=float, required=True)
    step.add_argument("--at-least", type=int, default=10_000, help="clips to wait for")
    step.add_argument("--peak", type=float, default=1.2e-3, help="learning rate; 6e-4 for a restart")
    step.add_argument("--seed", type=int, default=1)
    step.add_argument("--out", type=Path, required=True)
    step = steps.add_parser("start", help="write the folder with Whisper's decoder as its language model")
    step.add_argument("--lines", type=Path, required=True)
    step.add_argument("--tower", type=Path, required=True)
    step.add_argument("--shards", type=Path, required=True, help="one shard is enough")
    step.add_argument("--out", type=Path, required=True)
    step = steps.add_parser("tune", help="teach the start; may run while synth still writes")
    step.add_argument("--start", type=Path, required=True)
    step.add_argument("--shards", type=Path, required=True)
    step.add_argument("--seconds", type=float, required=True)
    step.add_argument("--at-least", type=int, default=10_000, help="clips to wait for")
    step.add_argument("--peak", type=float, default=2e-3, help="step in parts of a tensor's usual weight")
    step.add_argument("--seed", type=int, default=1)
    step.add_argument("--out", type=Path, required=True)
    step.add_argument("--teacher", type=Path, help="folder written by the step teacher")
    step.add_argument("--eight-bits", type=float, default=1.0, help="part of the run after which weights are rounded")
    step.add_argument("--begun", type=float, default=0.0, help="part that an interrupted run had done: progress.txt")
    step = steps.add_parser("teacher", help="write Whisper with the vocabulary that a folder's tokens need")
    step.add_argument("--start", type=Path, required=True)
    step.add_argument("--out", type=Path, required=True)
    step = steps.add_parser("average", help="average the weights of folders")
    step.add_argument("--bases", type=Path, nargs="+", required=True, help="the first gives tokenizer and settings")
    step.add_argument("--out", type=Path, required=True)
    step = steps.add_parser("adapters", help="train the two adapters on a finished base")
    step.add_argument("--base", type=Path, required=True)
    step.add_argument("--shards", type=Path, required=True)
    step.add_argument("--seconds", type=float, default=60, help="for each adapter, about")
    step.add_argument("--out", type=Path, required=True)
    step = steps.add_parser("humans", help="convert the installed Asterisk prompts to test clips")
    step.add_argument("--out", type=Path, required=True)
    step = steps.add_parser("evaluate", help="score a folder on human clips")
    step.add_argument("--base", type=Path, required=True)
    step.add_argument("--human", type=Path, nargs="+", required=True)
    step.add_argument("--peer", action="store_true", help="score Whisper tiny.en too")
    step.add_argument("--eight-bits", action="store_true", help="score the weights as eight bits keep them")
    step.add_argument("--out", type=Path, required=True)
    step = steps.add_parser("card", help="put the figures into the card and renew SHA256SUMS")
    step.add_argument("--base", type=Path, required=True)
    step.add_argument("--figures", type=Path, required=True)
    step = steps.add_parser("publish", help="measure the adapters, write manifests and cards")
    step.add_argument("--base", type=Path, required=True)
    step.add_argument("--adapters", type=Path, required=True)
    step.add_argument("--human", type=Path, nargs="+", required=True)
    step.add_argument("--lines", type=Path, required=True)
    arguments = parser.parse_args()
    STEPS[arguments.step](arguments)


def lines(arguments: argparse.Namespace) -> None:
    """Draw the lines."""
    from training.pretrain.evaluation.humans import read
    from training.pretrain.speech.synthesis import write_lines
    from training.pretrain.text.corpus import Corpus, HeldOut

    spoken = (clip.text for folder in arguments.human for clip in read(folder))
    write_lines(Corpus(HeldOut(spoken), arguments.seed), arguments.count, arguments.out)


def build(arguments: argparse.Namespace) -> None:
    """Write the untrained folder."""
    from training.pretrain.folder import build
    from training.pretrain.speech.synthesis import read_lines

    build(read_lines(arguments.lines), arguments.tower, arguments.out)


def kokoro(arguments: argparse.Namespace) -> None:
    """Record with Kokoro."""
    from training.pretrain.speech.kokoro import record
    from training.pretrain.speech.synthesis import read_lines

    record(read_lines(arguments.lines), arguments.out, arguments.minutes)


def synth(arguments: argparse.Namespace) -> None:
    """Say the lines."""
    from training.pretrain.speech.synthesis import import_recordings, synthesise

    if arguments.recorded:
        import_recordings(arguments.recorded, arguments.out)
    synthesise(arguments.lines, arguments.out, arguments.workers, arguments.seed, not arguments.no_unseen)


def train(arguments: argparse.Namespace) -> None:
    """Train the base."""
    from training.pretrain.train import train

    train(
        arguments.start,
        arguments.shards,
        arguments.out,
        arguments.seconds,
        arguments.at_least,
        arguments.peak,
        arguments.seed,
    )


def start(arguments: argparse.Namespace) -> None:
    """Write the start."""
    from training.pretrain.speech.synthesis import read_lines, read_speech
    from training.pretrain.start import build

    build(read_lines(arguments.lines), arguments.tower, read_speech(arguments.shards, 110), arguments.out)


def tune(arguments: argparse.Namespace) -> None:
    """Teach the start."""
    from training.pretrain.tune import Run, tune

    run = Run(
        arguments.seconds,
        arguments.at_least,
        arguments.peak,
        arguments.seed,
        arguments.teacher,
        arguments.eight_bits,
        arguments.begun,
    )
    tune(arguments.start, arguments.shards, arguments.out, run)


def teacher(arguments: argparse.Namespace) -> None:
    """Write the teacher."""
    from training.pretrain.folder import load
    from training.pretrain.teacher import cut

    cut(load(arguments.start)[1].tokenizer, arguments.out)


def average(arguments: argparse.Namespace) -> None:
    """Average the weights of folders."""
    from training.pretrain.average import average

    average(arguments.bases, arguments.out)


def adapters(arguments: argparse.Namespace) -> None:
    """Train the adapters."""
    from training.pretrain.adapters import train

    train(arguments.base, arguments.shards, arguments.out, arguments.seconds)


def humans(arguments: argparse.Namespace) -> None:
    """Convert the Asterisk prompts."""
    from training.pretrain.evaluation.humans import collect

    print(collect(arguments.out), "clips")


def evaluate(arguments: argparse.Namespace) -> None:
    """Score a folder."""
    from training.pretrain.evaluation.evaluate import evaluate

    figures = evaluate(arguments.base, arguments.human, arguments.out, arguments.peer, arguments.eight_bits)
    print(json.dumps(figures, indent=1))


def card(arguments: argparse.Namespace) -> None:
    """Write the card's figures."""
    from training.pretrain.evaluation.card import write

    write(arguments.base, arguments.figures)


def publish(arguments: argparse.Namespace) -> None:
    """Publish the adapters."""
    from training.pretrain.publish import publish

    publish(arguments.base, arguments.adapters, arguments.human, arguments.lines)


STEPS = {
    "lines": lines,
    "build": build,
    "kokoro": kokoro,
    "synth": synth,
    "train": train,
    "start": start,
    "tune": tune,
    "teacher": teacher,
    "average": average,
    "adapters": adapters,
    "humans": humans,
    "evaluate": evaluate,
    "card": card,
    "publish": publish,
}

if __name__ == "__main__":
    main()
