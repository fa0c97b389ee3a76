"""The card's figures: the section between two headings of the model's README, and the checksums."""

import hashlib
import json
from pathlib import Path
from typing import Any

CLIPS = {"human": "PocketSphinx test data (shipped)", "asterisk": "Asterisk prompts (one US voice)"}
KINDS = ("sentences", "words", "digits", "letters", "phonetic", "all")
FROM, TO = "## Figures on human recordings\n", "## Limits\n"
AIMS = (("sentences", "wer", 15.0), ("digits", "exact", 90.0), ("words", "exact", 90.0))
COMMANDS = """```sh
apt-get install asterisk-core-sounds-en-g722 asterisk-core-sounds-es-g722 asterisk-core-sounds-fr-g722
python -m training.pretrain humans --out work/asterisk
python -m training.pretrain evaluate --base app/models/overtone-tiny \\
    --human tests/data/human work/asterisk --peer --out work/figures.json
python -m training.pretrain card --base app/models/overtone-tiny --figures work/figures.json
```
"""


def write(base: Path, source: Path) -> None:
    """Put the figures that `evaluate` wrote into the card of a folder, and renew its checksums."""
    card = base / "README.md"
    figures = json.loads(source.read_text(encoding="utf-8"))["figures"]
    before, _, rest = card.read_text(encoding="utf-8").partition(FROM)
    after = rest.partition(TO)[2]
    assert after, f"{card}: a heading is missing"
    card.write_text(before + FROM + _section(figures) + "\n" + TO + after, encoding="utf-8")
    checksums(base)


def checksums(base: Path) -> None:
    """Write SHA256SUMS over all files of a folder."""
    files = sorted(path for path in base.iterdir() if path.is_file() and path.name != "SHA256SUMS")
    rows = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (base / "SHA256SUMS").write_text("".join(rows), encoding="utf-8")


def _section(figures: dict[str, Any]) -> str:
    """Write the section's text."""
    transcripts, tasks = [], []
    for place, found in figures.items():
        peer = found.get("whisper-tiny.en", {})
        for kind in KINDS:
            if kind in found["transcribe"]:
                cells = (*_cells(found["transcribe"][kind]), *_cells(peer.get(kind))[1:])
                transcripts.append(f"| {CLIPS[place]} | {kind} | {' | '.join(cells)} |\n")
        tasks += [
            f"| {CLIPS[place]} | {task} | {cells['clips']} | {cells['exact']} |\n"
            for task, cells in found["tasks"].items()
        ]
    return (
        "\nWord error rate (WER) and exact transcripts, in percent; greedy; the prompt is a phrasing never "
        "trained on; clips\nof up to 10 s. Whisper tiny.en: the same clips through faster-whisper (greedy, its "
        "30 s window); figures that it\nwrites are read as words, either way. Asterisk's letters include names "
        "of signs.\n\n"
        "| clips | kind | number | WER | exact | Whisper tiny.en WER | its exact |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        + "".join(transcripts)
        + "\nExact answers of other tasks, in percent:\n\n| clips | task | number | exact |\n"
        "| --- | --- | --- | --- |\n"
        + "".join(tasks)
        + "\n"
        + _default(figures)
        + "Aims, and what the Asterisk prompts gave:\n"
        + ";\n".join(_aim(figures["asterisk"]["transcribe"], *aim) for aim in AIMS)
        + ".\n\n"
        + COMMANDS
    )


def _cells(scores: dict[str, float] | None) -> tuple[str, str, str]:
    """Give number, WER and exact as text."""
    if scores is None:
        return ("", "not run", "not run")
    return (str(scores["clips"]), str(scores["wer"]), str(scores["exact"]))


def _aim(scores: dict[str, dict[str, float]], kind: str, measure: str, aim: float) -> str:
    """Compare one figure with its aim."""
    value = scores[kind][measure]
    if measure == "wer":
        return f"{kind} at most {aim:g} % WER, {value} % ({'reached' if value <= aim else 'missed'})"
    return f"{kind} {aim:g} % exact, {value} % ({'reached' if value >= aim else 'missed'})"


def _default(figures: dict[str, Any]) -> str:
    """Name the word error rates under the service's default prompt, where they were measured."""
    rates = [
        f"{found['default prompt']['wer']} % ({CLIPS[place]})"
        for place, found in figures.items()
        if "default prompt" in found
    ]
    return f'Asked "Transcribe the audio.", the WER of all clips is {" and ".join(rates)}.\n\n' if rates else ""
