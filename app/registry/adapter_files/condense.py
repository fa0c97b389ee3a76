"""Problems of many tensors as few lines: one for each kind, with the layers that it concerns."""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_FEW = 3  # lines that need no summary before them


def condensed(problems: Sequence[str], tensors: Collection[str]) -> list[str]:
    """The problems that are not of a tensor, then a summary where those of tensors are many, then a line for each kind.

    ``tensors``: all paths. A problem of a tensor begins with its path; those that differ in the layer's number alone
    become one line, `layers.*.q_proj.lora_A.weight (28 tensors, layers 0 to 27) has shape …`.
    """
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    others = []
    for problem in problems:
        path, _, rest = problem.partition(" ")
        if path in tensors:
            kinds[_NUMBER.sub("*", path), _NUMBER.sub("*", rest)].append(problem)
        else:
            others.append(problem)
    lines = [_line(pattern, rest, same) for (pattern, rest), same in sorted(kinds.items())]
    if len(lines) > _FEW:
        count = sum(map(len, kinds.values()))
        shapes = all(rest.startswith("has shape") for _, rest in kinds)
        guess = ": it was trained over another model, or with another rank than its configuration names"
        others.append(f"{count} of its {len(tensors)} tensors do not fit this base{guess if shapes else ''}")
    return [*others, *lines]


def _line(pattern: str, rest: str, same: Sequence[str]) -> str:
    if len(same) == 1:
        return same[0]
    numbers = sorted({int(found[0]) for problem in same if (found := _NUMBER.findall(problem.partition(" ")[0]))})
    whole = numbers and numbers == list(range(numbers[0], numbers[-1] + 1))
    layers = f"{numbers[0]} to {numbers[-1]}" if whole and len(numbers) > 1 else ", ".join(map(str, numbers))
    return f"{pattern} ({len(same)} tensors, layers {layers}) {rest}"
