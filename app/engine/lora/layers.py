"""Many LoRA adapters over one linear layer, in one batch: a masked dense product, no gather.

All resident adapters of a layer are side by side in ``lora_a`` [columns, in] and ``lora_b``
[columns, out]; row i of the mask [rows, columns] holds the weight of its adapters in their columns
and 0 elsewhere: ``y += ((x @ A.T) * mask) @ B``. A rank is a range of columns, the base model is a
zero row, a mix is a row with several ranges set, and loading an adapter is a copy into columns.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from app.engine.lora.slots import Slot
from app.errors import AdapterRejected
from app.models.layout import LAYERS, part_of
from app.quantization.linear import QuantizedLinear
from app.registry.adapter_files.scaling import overflow, scaled
from app.registry.adapter_files.weights import AdapterWeights, LoraPair

_LAYERS = f"{LAYERS}."


@dataclass(frozen=True)
class Pair:
    """One layer of one adapter, ready to copy: ``a`` [rank, in], ``b`` [out, rank] multiplied by the scaling."""

    a: torch.Tensor
    b: torch.Tensor


@dataclass(frozen=True)
class HostAdapter:
    """An adapter in host memory, in the model's dtype.

    ``pairs`` by module path. ``stacks``: the language model's, by projection, all layers in one: ``a``
    [layers, rank, in], ``b`` [layers, out, rank]; the pairs of its layers are views of them.
    """

    pairs: Mapping[str, Pair]
    projector: Mapping[str, torch.Tensor]
    rank: int
    nbytes: int
    stacks: Mapping[str, Pair] = field(default_factory=dict)


def prepare(weights: AdapterWeights, dtype: torch.dtype) -> HostAdapter:
    """Fold each layer's scaling into B (in float32) and cast. Raises AdapterRejected where a number overflows."""
    pairs: dict[str, Pair] = {}
    stacks: dict[str, Pair] = {}
    for name, places in _by_projection(weights.lora).items():
        stacks[name] = _stack([weights.lora[path] for path in places], list(places.values()), dtype)
        for path, layer in places.items():
            rank = weights.lora[path].a.shape[0]
            pairs[path] = Pair(stacks[name].a[layer, :rank], stacks[name].b[layer, :, :rank])
    held = [tensor for stack in stacks.values() for tensor in (stack.a, stack.b)]
    for path, pair in weights.lora.items():
        if path not in pairs:
            pairs[path] = Pair(pair.a.to(dtype).contiguous(), scaled(pair.b, pair.scaling, dtype).contiguous())
            held += [pairs[path].a, pairs[path].b]
    projector = {path: tensor.to(dtype) for path, tensor in weights.projector.items()}
    held += projector.values()
    if not all(torch.isfinite(tensor).all() for tensor in held):
        raise AdapterRejected(_overflowing(weights, pairs, projector, dtype))
    return HostAdapter(pairs, projector, weights.rank, sum(tensor.nbytes for tensor in held), stacks)


def _overflowing(
    weights: AdapterWeights, pairs: Mapping[str, Pair], projector: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> str:
    """An error text that names up to three tensors that are not finite in ``dtype``."""
    found = [overflow(path, tensor, dtype) for path, tensor in projector.items()]
    for path, pair in pairs.items():
        found.append(overflow(f"{path}.lora_A.weight", pair.a, dtype))
        found.append(overflow(f"{path}.lora_B.weight", pair.b, dtype, weights.lora[path].scaling))
    return "The adapter cannot be served: " + "; ".join([problem for problem in found if problem][:3])


def _by_projection(paths: Iterable[str]) -> dict[str, dict[str, int]]:
    """The language model's module paths with their layers, by what follows the layer's number; `lm_head` is layer 0."""
    found: dict[str, dict[str, int]] = {}
    for path in paths:
        if path == "lm_head":
            found[path] = {path: 0}
        elif path.startswith(_LAYERS):
            layer, _, name = path.removeprefix(_LAYERS).partition(".")
            found.setdefault(name, {})[path] = int(layer)
    return {name: dict(sorted(places.items(), key=lambda place: place[1])) for name, places in found.items()}


def _stack(pairs: list[LoraPair], layers: list[int], dtype: torch.dtype) -> Pair:
    """Layers of one projection in one tensor each, zero where there is nothing; ranks may differ."""
    if layers == list(range(len(layers))) and len({pair.a.shape for pair in pairs}) == 1:
        a, b = torch.stack([pair.a for pair in pairs]), torch.stack([pair.b for pair in pairs])
    else:
        depth, rank = max(layers) + 1, max(pair.a.shape[0] for pair in pairs)
        a = pairs[0].a.new_zeros(depth, rank, pairs[0].a.shape[1])
        b = pairs[0].b.new_zeros(depth, pairs[0].b.shape[0], rank)
        for pair, layer in zip(pairs, layers, strict=True):
            a[layer, : pair.a.shape[0]] = pair.a
            b[layer, :, : pair.b.shape[1]] = pair.b
    scalings = {pair.scaling for pair in pairs}
    if b.dtype == dtype and len(scalings) == 1:
        return Pair(a.to(dtype), b.mul_(scalings.pop()))  # in float32 as well, within the operation
    scaling = torch.zeros(len(a))
    scaling[layers] = torch.tensor([pair.scaling for pair in pairs])
    return Pair(a.to(dtype), (b.float() * scaling[:, None, None]).to(dtype))


class LoRAColumns(nn.Linear):
    """What a linear layer has of all adapters, and its forward pass: the layer's own product plus what they add.

    A subclass with the layer's class behind this one shares the weights of a layer in place.
    """

    def add_columns(self, reference: torch.Tensor) -> None:
        """Begin with no columns. ``reference``: a tensor of the device and dtype of the columns."""
        self.users: set[str] = set()
        self.mask: torch.Tensor | None = None
        self.own: torch.Tensor | None = None  # the columns of the mask, where it has one row
        self.lora_a = reference.new_zeros(0, self.in_features)
        self.lora_b = reference.new_zeros(0, self.out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        if self.mask is None:
            return y
        if self.own is not None:  # of the one row
            return y + (F.linear(x, self.lora_a[self.own]) * self.mask) @ self.lora_b[self.own]
        z = F.linear(x, self.lora_a)
        # where, not a bare product: another row's overflow (inf · 0) must not become this row's NaN
        z = torch.where(self.mask != 0, z * self.mask, 0)
        return y + _expanded(z, self.lora_b, self.mask)

    def grow(self, columns: int) -> None:
        """Extend to ``columns`` columns, the new ones zero."""
        more = columns - self.lora_a.shape[0]
        if more > 0:
            self.lora_a = torch.cat([self.lora_a, self.lora_a.new_zeros(more, self.in_features)])
            self.lora_b = torch.cat([self.lora_b, self.lora_b.new_zeros(more, self.out_features)])


class MultiLoRALinear(LoRAColumns):
    """A linear layer that shares the base layer's weight and adds the adapters that the current mask selects."""

    def __init__(self, base: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.add_columns(base.weight)


class MultiLoRAQuantizedLinear(LoRAColumns, QuantizedLinear):
    """The same over weights at rest."""

    def __init__(self, base: QuantizedLinear) -> None:
        QuantizedLinear.__init__(self, base.matrix, base.bias, base.dtype)
        self.add_columns(torch.empty(0, device=base.data.device, dtype=base.dtype))


def _expanded(z: torch.Tensor, b: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """z [..., columns] times ``b`` [columns, out], where no row depends on columns beyond its ``mask``.

    z is zero there, but 0 · inf is NaN. For finite numbers, the usual case, the check costs one sum.
    """
    if not b.is_cuda and torch.isfinite((added := z @ b).sum()):  # on CUDA the check would wait for the device
        return added
    broken = ~torch.isfinite(b)
    own = (mask != 0).to(b.dtype) @ broken.to(b.dtype)
    return torch.where(own > 0, torch.nan, z @ torch.where(broken, 0, b))


class LoRABank:
    """The columns of every layer, and the projectors of the resident adapters.

    Without ``language_model`` it holds those of the audio encoder and the projector alone.
    """

    def __init__(self, model: nn.Module, language_model: bool = True) -> None:
        self._layers = _install(model, language_model)
        self._base_projector = {
            path: parameter for path, parameter in model.named_parameters() if part_of(path) == "projector"
        }
        self._projectors: dict[str, Mapping[str, torch.Tensor]] = {}
        self._slots: dict[str, Slot] = {}
        self._reference = next(model.parameters())
        self.columns = 0  # for which there has been memory
        self._live: list[LoRAColumns] = []
        self._selected: object = None

    def load(self, slot: Slot, adapter: HostAdapter, capacity: int) -> None:
        """Copy an adapter into its slot's columns."""
        self._slots[slot.uid] = slot
        self._selected = None
        for path, pair in adapter.pairs.items():
            layer = self._layers.get(path)
            if layer is None:
                continue
            layer.users.add(slot.uid)  # first, so that `clear` also finds a copy that failed half-way
            layer.grow(capacity)
            end = slot.start + pair.a.shape[0]
            layer.lora_a[slot.start : end].copy_(pair.a, non_blocking=True)
            layer.lora_b[slot.start : end].copy_(pair.b.T, non_blocking=True)
        self.columns = max(self.columns, capacity)
        if adapter.projector:
            self._projectors[slot.uid] = adapter.projector  # on the host: each is read once per request

    def clear(self, slot: Slot) -> None:
        """Zero an evicted adapter's columns, so that nothing of it is left behind."""
        for layer in self._layers.values():
            if slot.uid in layer.users:
                layer.users.discard(slot.uid)
                layer.lora_a[slot.start : slot.stop].zero_()
                layer.lora_b[slot.start : slot.stop].zero_()
        self._projectors.pop(slot.uid, None)
        self._slots.pop(slot.uid, None)
        self._selected = None

    def select(self, rows: Sequence[Mapping[str, float]], repeat: Sequence[int] | None = None) -> None:
        """Set what the next forward adds: for each row the weights of its adapters by uid.

        ``repeat``: packed tokens of each row (language model); without it, rows are clips (audio tower).
        """
        selection = ([dict(row) for row in rows], repeat)
        if selection == self._selected:
            return
        self._selected = selection
        for layer in self._live:
            layer.mask = layer.own = None
        wanted = {uid for row in rows for uid in row}
        self._live = [layer for layer in self._layers.values() if not wanted.isdisjoint(layer.users)]
        if not self._live:
            return
        columns = max(layer.lora_a.shape[0] for layer in self._live)
        mask = torch.zeros(len(rows), columns, dtype=self._reference.dtype)
        for index, row in enumerate(rows):
            for uid, weight in row.items():
                mask[index, self._slots[uid].start : self._slots[uid].stop] = weight
        own = None
        if len(rows) == 1:
            own = mask[0].nonzero()[:, 0]
            mask = mask[:, own]
            mask, own, repeat = mask[:, None], own.to(self._reference.device), None
        elif repeat is None:
            mask = mask[:, None]
        else:
            mask = mask.repeat_interleave(torch.tensor(repeat), 0)[None]
        mask = mask.to(self._reference.device)
        for layer in self._live:
            layer.grow(columns)
            layer.mask, layer.own = mask, own

    def projector(self, row: Mapping[str, float]) -> dict[str, torch.Tensor] | None:
        """Projector parameters of a mix: W + Σ weight · (W_adapter - W); None when no adapter has its own."""
        own = [(self._projectors[uid], weight) for uid, weight in row.items() if uid in self._projectors]
        if not own:
            return None
        merged = {path: base.detach().float() for path, base in self._base_projector.items()}
        for saved, weight in own:
            for path, tensor in saved.items():
                change = tensor.to(self._reference.device).float() - self._base_projector[path].float()
                merged[path] = merged[path] + weight * change
        return {path: tensor.to(self._reference.dtype) for path, tensor in merged.items()}


def _install(model: nn.Module, language_model: bool) -> dict[str, LoRAColumns]:
    """Replace every linear layer in place, the language model's only if wanted."""
    linears = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and (language_model or part_of(path) != "language_model")
    ]
    layers: dict[str, LoRAColumns] = {}
    for path, module in linears:
        parent, _, name = path.rpartition(".")
        if isinstance(module, QuantizedLinear):
            layers[path] = MultiLoRAQuantizedLinear(module)
        else:
            layers[path] = MultiLoRALinear(module)
        setattr(model.get_submodule(parent), name, layers[path])
    return layers
