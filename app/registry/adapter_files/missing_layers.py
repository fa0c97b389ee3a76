"""Layers that `target_modules` names although the weight file has no tensors for them."""

from collections.abc import Iterable

from app.errors import BadRequest
from app.registry.adapter_files.config import AdapterConfig, as_list
from app.registry.adapter_files.keys import spellings
from app.registry.adapter_files.patterns import MATCHING_S, Patterns
from app.registry.adapter_files.resolve import Meaning


def missing_layers(meaning: Meaning, owners: Iterable[str], *, seconds: float = MATCHING_S) -> list[str]:
    """Written names of layers that `target_modules` names although the file has no tensors for them.

    Only layers of parts of the model that the file has some tensors of: leaving out a whole part is common (an
    adapter without its tower). Empty where nothing can be said: no list, or expressions that take long.
    """
    config = meaning.config
    targets = config.target_modules
    if not targets or not meaning.modules or str(targets).lower() == "all-linear" or config.trainable_token_indices:
        return []
    layouts = {_layout(path, written) for path, written in meaning.modules.items()}
    if len(layouts) != 1:
        return []
    layout = layouts.pop()
    parts = {_part(path) for path in meaning.modules}
    matcher = Patterns(seconds)
    found = []
    try:
        for path in owners:
            if path in meaning.modules or _part(path) not in parts or path in meaning.saved:
                continue
            written = spelled(path, layout)
            if _targeted(config, written, matcher):
                found.append(written)
    except BadRequest:
        return []
    return found


def spelled(path: str, layout: int) -> str:
    """A path in one of the layouts of `keys.spellings`; today's where it has no such one."""
    found = spellings(path)
    return found[layout] if layout < len(found) else found[0]


def _layout(path: str, written: str) -> int:
    found = spellings(path)
    return found.index(written) if written in found else 0


def _part(path: str) -> str:
    return ".".join(path.split(".")[:2])


def _targeted(config: AdapterConfig, name: str, matcher: Patterns) -> bool:
    """PEFT's `check_target_module_exists`."""
    excluded = config.exclude_modules
    if isinstance(excluded, str) and matcher.full(excluded, name):
        return False
    if isinstance(excluded, list) and _listed(excluded, name):
        return False
    if isinstance(config.target_modules, str):
        return matcher.full(config.target_modules, name)
    if name in (config.target_modules or []):
        return True
    return _listed(config.target_modules or [], name) and _in_layers(config, name, matcher)


def _listed(names: list[str], name: str) -> bool:
    parts = name.split(".")
    ends = {".".join(parts[start:]) for start in range(len(parts))}
    return not ends.isdisjoint(names)


def _in_layers(config: AdapterConfig, name: str, matcher: Patterns) -> bool:
    wanted = config.layers_to_transform
    if wanted is None or wanted == []:
        return True
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit() and 0 < place < len(parts) - 1]
    patterns = as_list(config.layers_pattern)
    if patterns:
        numbers = [n for n in numbers if any(matcher.ends(p, ".".join(parts[:n])) for p in patterns)]
    else:
        numbers = [n for n in numbers if n >= 2]
    return bool(numbers) and int(parts[numbers[0]]) in ([wanted] if isinstance(wanted, int) else wanted)
