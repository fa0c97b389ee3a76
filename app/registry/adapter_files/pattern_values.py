"""Numbers that a configuration gives by pattern (`rank_pattern`, `alpha_pattern` …), for each module that they fit.

Patterns are matched with the names that the file uses, as they were during training.
"""

from collections.abc import Collection, Mapping

from app.errors import BadRequest
from app.registry.adapter_files.config import AdapterConfig
from app.registry.adapter_files.keys import spellings
from app.registry.adapter_files.patterns import Patterns

_SHOWN_BY_SHAPES = {"rank_pattern", "block_size_pattern", "n_frequency_pattern"}
_SPELLED = "; write its name as the tensors' names have it, or as the end of one"


def pattern_values(
    config: AdapterConfig, modules: Mapping[str, str], matcher: Patterns, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """field -> path -> value, for each module that a pattern fits; warnings where it fits several."""
    found: dict[str, dict[str, float]] = {}
    unsure: list[str] = []
    for field_name, patterns in config.patterns.items():
        used: set[str] = set()
        values: dict[str, float] = {}
        for path, written in modules.items():
            hits = matcher.hits(patterns, written, dotted=config.tuner.dotted)
            if not hits and field_name in _SHOWN_BY_SHAPES:
                others = (matcher.hits(patterns, other, dotted=config.tuner.dotted) for other in spellings(path))
                hits = next((other for other in others if other), {})
            used |= hits.keys()
            rank = _rank_in(path, shapes) if field_name == "rank_pattern" else None
            if rank is not None and rank in hits.values():
                values[path] = rank
            elif hits:
                values[path] = next(iter(hits.values()))
                if len(set(hits.values())) > 1:
                    unsure.append(f"{field_name} of {written}: {values[path]:g}")
        if len(used) < len(patterns) and field_name not in _SHOWN_BY_SHAPES:
            _refuse_other_layouts(field_name, patterns, used, modules, matcher, config.tuner.dotted)
        found[field_name] = values
    return found, _ambiguous(unsure)


def _ambiguous(unsure: list[str]) -> list[str]:
    if not unsure:
        return []
    more = f" and {len(unsure) - 1} more" if len(unsure) > 1 else ""
    return [
        f"several patterns with other values fit one layer; the first in the file counts, as in PEFT ("
        f"{unsure[0]}{more}), but PEFT sorts patterns when it saves, so training may have had another order"
    ]


# Tensors that show the rank of a layer, with the dimension where it shows
_RANKS = (
    ("lora_A.weight", 0),
    ("lora_embedding_A", 0),
    ("hada_w1_b", 0),
    ("lokr_w2_b", 0),
    ("lokr_w1_b", 0),
    ("hira_A", 0),
    ("delora_A", 0),
)


def _rank_in(path: str, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    found = (shapes.get(f"{path}.{name}", ())[side : side + 1] for name, side in _RANKS)
    return next((sides[0] for sides in found if sides), None)


def _refuse_other_layouts(
    field_name: str,
    patterns: Mapping[str, float],
    used: Collection[str],
    modules: Mapping[str, str],
    matcher: Patterns,
    dotted: bool,
) -> None:
    """A pattern that fits nothing as the file spells it, but something in another layout, was translated by halves.

    Raises BadRequest.
    """
    others = {
        spelling: path for path, written in modules.items() for spelling in spellings(path) if spelling != written
    }
    for pattern, value in patterns.items():
        if pattern in used:
            continue
        for spelling, path in others.items():
            if matcher.first({pattern: value}, spelling, dotted=dotted) and not _covered(
                patterns, used, modules[path], value, matcher, dotted
            ):
                raise BadRequest(
                    f"{field_name} has {pattern[:120]!r}, which fits {spelling}; the tensors call that layer "
                    f"{modules[path]}, which it does not fit: it is not known whether it counted in training{_SPELLED}"
                )


def _covered(
    patterns: Mapping[str, float], used: Collection[str], written: str, value: float, matcher: Patterns, dotted: bool
) -> bool:
    """True if the module has the same number from a pattern that does fit."""
    hit = matcher.first({p: v for p, v in patterns.items() if p in used}, written, dotted=dotted)
    return hit is not None and hit[1] == value
