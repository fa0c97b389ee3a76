"""Write a data set of spoken medical findings, by espeak-ng's voices: dictation in, the line of the record out."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

VOICES = ("en-us", "en-gb", "en-us+f3", "en-us+m3", "en-gb+f2", "en-gb+m1")
DRUGS = ("aspirin", "ibuprofen", "metformin", "amoxicillin", "prednisone", "warfarin")
DOSES = {"five": 5, "ten": 10, "fifty": 50, "one hundred": 100, "five hundred": 500}
OFTEN = {"once": 1, "twice": 2, "three times": 3}
UNITS = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def two_digits(value: int) -> str:
    """20 to 99 in words."""
    return f"{TENS[value // 10]} {UNITS[value % 10]}".strip()


def pressure(rng: random.Random) -> tuple[str, str]:
    high, low = rng.randrange(20, 90), rng.randrange(60, 100)
    return f"blood pressure one {two_digits(high)} over {two_digits(low)}", f"BP 1{high}/{low} mmHg"


def pulse(rng: random.Random) -> tuple[str, str]:
    rate = rng.randrange(48, 100)
    return f"pulse {two_digits(rate)}", f"HR {rate}/min"


def saturation(rng: random.Random) -> tuple[str, str]:
    share = rng.randrange(80, 100)
    return f"oxygen saturation {two_digits(share)} percent", f"SpO2 {share} %"


def drug(rng: random.Random) -> tuple[str, str]:
    name, dose, often = rng.choice(DRUGS), rng.choice(list(DOSES)), rng.choice(list(OFTEN))
    return f"{name} {dose} milligrams {often} a day", f"{name} {DOSES[dose]} mg, {OFTEN[often]} x daily"


FINDINGS: tuple[Callable[[random.Random], tuple[str, str]], ...] = (pressure, pulse, saturation, drug)


def write(folder: Path, rows: int, held_out: int, seed: int = 0) -> Path:
    """Write the recordings and `data.jsonl`; no sentence that is held out is trained on."""
    target = folder / "data.jsonl"
    if target.exists():
        sys.exit(f"{target} would be overwritten; name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    spoken = dict(rng.choice(FINDINGS)(rng) for _ in range(rows))  # one row for each distinct sentence
    lines = []
    for number, (said, written) in enumerate(spoken.items()):
        file, pace = f"{number:04d}.wav", str(rng.randrange(140, 190))
        subprocess.run(["espeak-ng", "-v", rng.choice(VOICES), "-s", pace, "-w", str(folder / file), said], check=True)
        split = "validation" if number < held_out else "train"
        lines.append({"audio": file, "prompt": "Write the finding.", "response": written, "split": split})
    target.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return target


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), rows=900, held_out=60))
