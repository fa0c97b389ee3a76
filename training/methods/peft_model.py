"""The base model with what is to be trained put around it by PEFT, and taken off again."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from app.errors import BadRequest
from app.models.layout import AUDIO_TOWER, PROJECTOR, PROJECTOR_NAME, projector
from app.models.loading import LoadedModel, combine_checksums, weight_checksums
from app.registry.adapter_files.plain_peft import PlainAdapter, wrap
from training.events import TrainingFailed
from training.options import TrainOptions

EVA_PASSES = 8


class Adapted:
    """A PEFT model whose trainable parameters are float32, whatever the base's dtype.

    ``start``: the LoRA adapter that training goes on from; None: a new one.
    """

    def __init__(self, loaded: LoadedModel, options: TrainOptions, start: PlainAdapter | None = None) -> None:
        from peft.tuners.lora import LoraLayer

        self.loaded = loaded
        self.before = combine_checksums(weight_checksums(loaded.model))
        self._options = options
        self.peft: Any = self._new() if start is None else self._going_on(start)
        for path, parameter in self.peft.named_parameters():
            if options.method == "projector":
                parameter.requires_grad_(f"{PROJECTOR_NAME}.modules_to_save" in path)
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        for module in self.peft.modules():
            if isinstance(module, LoraLayer):
                module.cast_input_dtype_enabled = False  # the forward pass runs under autocast

    def _new(self) -> Any:
        from peft import LoraConfig, get_peft_model

        loaded, options = self.loaded, self._options
        if options.method == "projector":
            # PEFT wants one LoRA layer at least; this one stays zero and frozen beside the trained projector
            targets, saved = loaded.family.targets.placeholder, [PROJECTOR_NAME]
            config = LoraConfig(r=1, target_modules=targets, modules_to_save=saved, task_type="CAUSAL_LM")
        else:
            config = LoraConfig(**options.lora(loaded.family.targets))
        return get_peft_model(loaded.model, config, low_cpu_mem_usage=options.eva)

    def _going_on(self, start: PlainAdapter) -> Any:
        """The adapter around the model, to be trained on. Raises BadRequest for one that is more than LoRA."""
        other = [key for key in start.tensors if ".lora_" not in key]
        if start.peft_type != "LORA" or other or any(AUDIO_TOWER in path for path in start.paths):
            raise BadRequest(
                f"{self._options.name!r} cannot be trained on: start=current goes on from LoRA on the language model "
                "or the projector alone. Leave start out to train a new one."
            )
        fields = {**start.config, "lora_dropout": self._options.dropout}
        peft = wrap(self.loaded.model, replace(start, config=fields), name="default")
        peft.peft_config["default"].task_type = "CAUSAL_LM"
        for path, parameter in peft.named_parameters():
            parameter.requires_grad_(".lora_" in path)
        return peft

    @property
    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """By name; what the optimiser moves and a checkpoint holds."""
        return {name: parameter for name, parameter in self.peft.named_parameters() if parameter.requires_grad}

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups; with LoRA+ (Hayou et al., 2024) the B matrices learn faster."""
        ratio = self._options.lora_plus
        parameters = self.trainable
        if ratio is None:
            return [{"params": list(parameters.values()), "scale": 1.0}]
        faster = [parameter for name, parameter in parameters.items() if ".lora_B." in name]
        others = [parameter for name, parameter in parameters.items() if ".lora_B." not in name]
        return [{"params": others, "scale": 1.0}, {"params": faster, "scale": ratio}]

    def initialise(self, batches: Any, forward: Any) -> None:
        """EVA (Paischer et al., 2024): A from the principal directions of the layers' inputs on ``batches``.

        PEFT goes over them until the directions settle, however long that takes. Raises TrainingFailed when they don't.
        """
        from peft import initialize_lora_eva_weights

        left = itertools.count(EVA_PASSES * len(batches), -1)

        def hidden(_: Any, batch: Any) -> Any:
            if next(left) == 0:
                raise TrainingFailed(
                    f"EVA found no settled directions in {EVA_PASSES} passes over {len(batches)} batches; lower the "
                    "rank (--rank), give more rows, or leave out --eva."
                )
            return forward.hidden(batch)

        initialize_lora_eva_weights(
            self.peft,
            dataloader=[_Batch(batch) for batch in batches],
            forward_fn=hidden,
            prepare_model_inputs_fn=None,
            prepare_layer_inputs_fn=None,
            show_progress_bar=False,
        )

    def drift(self) -> dict[str, float]:
        """The distance that the projector has moved: ‖Δ‖ / ‖W‖ and the cosine of old and new weights."""
        wrapper = self.peft.get_submodule(f"base_model.model.{PROJECTOR}")
        old = torch.cat([p.detach().float().flatten() for p in wrapper.original_module.parameters()])
        new = torch.cat([p.detach().float().flatten() for p in wrapper.modules_to_save["default"].parameters()])
        cosine = torch.nn.functional.cosine_similarity(old, new, dim=0)
        return {"relative_change": float((new - old).norm() / old.norm()), "cosine": float(cosine)}

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the trained parameters, on the CPU."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.trainable.items()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Put back what `state` gave."""
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(state[name])

    def save(self, folder: Path) -> None:
        """As PEFT saves it; a projector without the placeholder, which is no part of it."""
        self.peft.save_pretrained(str(folder), save_embedding_layers=False)
        if self._options.method == "projector":
            weights = folder / "adapter_model.safetensors"
            tensors = load_file(weights)
            kept = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
            save_file(kept, weights, metadata={"format": "pt"})

    def unload(self) -> str:
        """Take the adapter off; the base weights' fingerprint then, equal to ``before``.

        PEFT's own `unload` leaves a trained copy of the projector in the base's place; here the original returns.
        """
        model = self.loaded.model
        original = getattr(projector(model), "original_module", projector(model))
        self.peft.unload()
        model.set_submodule(PROJECTOR, original)
        return combine_checksums(weight_checksums(self.loaded.model))


class _Batch(list[Any]):
    """Rows that EVA may ask to move to a device; the forward pass does that itself."""

    def to(self, _: torch.device) -> "_Batch":
        return self
