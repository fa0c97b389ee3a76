"""The adapters as one caller uses them: resolve names, select, pin, unload and remove."""

from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Literal

from app.engine.encoder.classifiers import Heads
from app.engine.engine import Engine
from app.engine.request import LoRAWeight
from app.errors import BadRequest, Forbidden
from app.registry.adapter import Adapter
from app.registry.default_adapter import EVERYBODY, Chosen
from app.registry.tenant_view import TenantRegistry

BASE = "base"
MOST_DIGITS = 18  # of a version's number
Residency = Literal["gpu", "host", "disk"]


class TenantAdapters:
    """Adapters of one caller's registry view, and their place in the engine. Safe to use from any thread."""

    def __init__(self, registry: TenantRegistry, engine: Engine, heads: Heads) -> None:
        self._registry = registry
        self._engine = engine
        self._heads = heads
        self._defaults = registry.whole.defaults

    # -- what answers -----------------------------------------------------------------------------

    def resolve(self, adapter: str | None) -> tuple[LoRAWeight, ...]:
        """The LoRA weights behind a name, `base`, a mix `a:0.7,b:0.3`, or None: the active adapter.

        A name may carry the number of a version on disk, `name@2`; without one, the current version is meant.
        Empty for the base model. Raises AdapterNotFound, AdapterRejected or BadRequest.
        """
        named = adapter or self.active
        if named in (None, BASE):
            return ()
        weights = tuple(self._weight(part) for part in str(named).split(","))
        names = [weight.adapter.name for weight in weights]
        if len(set(names)) < len(names):
            raise BadRequest(f"The mix {named!r} names an adapter twice.")
        return weights

    def classifier(self, adapter: str | None) -> Adapter:
        """The adapter whose classification head answers: the one named, or the active one.

        Raises AdapterNotFound, AdapterRejected, or BadRequest for an adapter without a head.
        """
        named = adapter or self.active
        mix = named is not None and bool(set(named) & set(",:"))
        if named is not None and named != BASE and not mix:
            found = self._find(named)
            if is_classifier(found):
                return found
        heads = ", ".join(known.name for known in self._registry.all() if is_classifier(known))
        hint = f"these do: {heads}" if heads else "none here does"
        if named is None:
            raise BadRequest(f"Name an adapter that carries a classification head; {hint}.")
        if mix:
            raise BadRequest(f"{named[:80]!r} is a mix; one adapter with a head classifies alone; {hint}.")
        raise BadRequest(f"{named!r} carries no classification head; {hint}. /generate asks it in words.")

    def generative(self) -> list[Adapter]:
        """All adapters that generate text."""
        return [adapter for adapter in self._registry.all() if not is_classifier(adapter)]

    # -- the active adapter -----------------------------------------------------------------------

    @property
    def active(self) -> str | None:
        """The adapter or mix of requests that name none: the tenant's own choice, else the common one if it is visible.

        None for the base model.
        """
        selected = self._defaults.all()
        caller = self._registry.caller
        chosen = selected.get(caller.tenant or EVERYBODY)
        if chosen is None:
            chosen = selected.get(EVERYBODY, BASE)
            if not caller.sees_all and not set(names_of(chosen)) <= set(self._registry.names()):
                return None
        if chosen == BASE or not set(names_of(chosen)) <= {*self._registry.names(), *self._registry.broken()}:
            return None  # also while it is being removed
        return chosen

    def is_active(self, name: str) -> bool:
        """True when the active adapter is this one, or a mix with it."""
        return self.active is not None and name in names_of(self.active)

    def select(self, adapter: str) -> str | None:
        """Make an adapter or a mix the active one; `base` selects none. Returns the active adapter.

        Raises AdapterNotFound, AdapterRejected, or BadRequest for a tenant's adapter selected for everybody.
        """
        weights = self.resolve(adapter)
        if "@" in adapter:
            raise BadRequest("The selected adapter is always served at its current version; roll back to another one.")
        tenant = self._registry.caller.tenant
        owned = [weight.adapter.name for weight in weights if weight.adapter.manifest.owner]
        if tenant is None and owned:
            raise BadRequest(f"{owned[0]!r} belongs to a tenant, so it cannot answer everybody; use that tenant's key.")
        self._defaults.change(lambda chosen: chosen.update({tenant or EVERYBODY: adapter}))
        return self.active

    def deselect(self, name: str | None = None) -> None:
        """Leave no adapter active; with ``name``, only where that adapter was.

        A tenant's call changes its own choice; any other changes the common one and those of all tenants.
        """
        tenant = self._registry.caller.tenant
        if tenant is not None:
            if name is None or name in names_of(self.active or BASE):
                self._defaults.change(lambda chosen: chosen.update({tenant: BASE}))
            return

        def edit(chosen: Chosen) -> None:
            chosen.update({owner: BASE for owner in chosen if name is None or name in names_of(chosen[owner])})

        self._defaults.change(edit)

    # -- changes ----------------------------------------------------------------------------------

    def publish(self, folder: Path, name: str, *, replace: bool = False, notes: Iterable[str] = ()) -> Adapter:
        """Validate an adapter's folder and serve it; ``notes`` join its warnings. Raises as `Registry.publish` does."""
        adapter = self._registry.publish(folder, name, replace=replace)
        adapter.report.warnings += notes
        return adapter

    def roll_back(self, name: str, version: int | None = None) -> Adapter:
        """Serve an older version again, by default the one before. Raises as `Registry.rollback` does."""
        return self._registry.rollback(name, version)

    def remove(self, name: str) -> None:
        """Take an adapter out of service, with its pin and its slot. Running requests keep the version they have.

        Raises AdapterNotFound, Forbidden, Conflict or StorageError.
        """
        self._registry.remove(name)
        self.deselect(name)
        self._engine.pin(name, False).result()
        self._engine.free_slots(name).result()

    def pin(self, name: str, pinned: bool) -> Adapter:
        """Exempt an adapter from eviction, or end that.

        Raises AdapterNotFound, Forbidden for a tenant, BadRequest for a classifier, Conflict where no slot would be
        left without a pin.
        """
        adapter = self._registry.get(name)
        if self._registry.caller.tenant is not None:
            raise Forbidden("Slots are shared by all tenants; only a key of no tenant may pin an adapter.")
        if is_classifier(adapter):
            raise BadRequest(f"{name!r} is a classification head: it takes no slot, so there is nothing to pin.")
        self._engine.pin(name, pinned).result()
        return adapter

    def unload(self, name: str | None = None) -> list[str]:
        """Deselect all adapters and free their slots, or those of one; returns the freed uids (name@version).

        Running requests keep their adapters. Without the sight of all adapters, a caller frees only those that it may
        change. Raises AdapterNotFound.
        """
        if name is not None:
            self._registry.get(name)
        self.deselect(name)
        caller = self._registry.caller
        names: list[str] | None = None if name is None else [name]
        if not caller.sees_all:
            own = [a.name for a in self._registry.all() if caller.may_change(a.name, a.manifest.owner)]
            names = [one for one in own if name in (None, one)]
        self._registry.whole.announce_unload(names)
        return [uid for future in free_slots(self._engine, names) for uid in future.result()]

    # -- residency --------------------------------------------------------------------------------

    def residency(self, adapter: Adapter) -> Residency:
        """The fastest memory that holds an adapter's weights."""
        snapshot = self._engine.snapshot
        if adapter.uid in snapshot.resident:
            return "gpu"
        return "host" if adapter.uid in snapshot.in_host_memory or self._heads.holds(adapter.uid) else "disk"

    def resident_names(self) -> set[str]:
        """The names of all adapters in slots, of any owner."""
        return {uid.partition("@")[0] for uid in self._engine.snapshot.resident}

    def is_pinned(self, name: str) -> bool:
        """True for an adapter that is exempt from eviction."""
        return name in self._engine.snapshot.pinned

    def _weight(self, part: str) -> LoRAWeight:
        """One part of a mix, `name` or `name:weight`."""
        name, _, text = part.strip().partition(":")
        try:
            weight = float(text) if text else 1.0
        except ValueError:
            raise BadRequest(f"{part!r} is not name:weight; write a mix as a:0.7,b:0.3.") from None
        if not -10.0 <= weight <= 10.0:  # also refuses NaN
            raise BadRequest(f"The weight in {part!r} must lie between -10 and 10.")
        if name == BASE:
            raise BadRequest("`base` cannot be part of a mix; the base model is always under it.")
        found = self._find(name)
        if is_classifier(found):
            raise BadRequest(f"The adapter {name!r} is a classification head and says no words; send it to /classify.")
        return LoRAWeight(found, weight)

    def _find(self, named: str) -> Adapter:
        """The adapter `name` at its current version, or the version `name@2`."""
        name, at, number = named.partition("@")
        if not at:
            return self._registry.get(name)
        if not (number.isascii() and number.isdecimal() and len(number) <= MOST_DIGITS):
            raise BadRequest(f"{named[:80]!r} is not name@version; a version is a number, as in nato@2.")
        return self._registry.version(name, int(number))


def free_slots(engine: Engine, names: list[str] | None) -> "list[Future[list[str]]]":
    """Free the slots of these adapters, or with None of all; each future returns the freed uids."""
    return [engine.free_slots(name) for name in ([None] if names is None else names)]


def is_classifier(adapter: Adapter) -> bool:
    """True for an adapter that is a classification head."""
    return adapter.report.serving == "classify"


def names_of(adapter: str) -> list[str]:
    """The adapter names in a name or a mix."""
    return [part.strip().partition(":")[0] for part in adapter.split(",")]
