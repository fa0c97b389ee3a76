"""Quantised checkpoints by the name of their maker: which are read, and what to do instead for those that are not."""

from collections.abc import Mapping
from typing import Any

from app.errors import ModelRejected
from app.models.weights.safetensors_header import StoredTensor

WAY_OVER = (
    "Name the model in full precision and set OVERTONE_WEIGHTS=int4, int8 or float8: it is quantised while it is "
    "loaded; `overtone quantize MODEL --to int4 --out FOLDER` writes that down for quick starts"
)
COMPRESSED_TENSORS = "compressed-tensors"
# formats of compressed-tensors whose tensors are read; `dense` are those of layers that it leaves as they are
_READ = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision", "dense")
_TITLES = {
    "gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes", "gguf": "GGUF", "hqq": "HQQ", "quanto": "Quanto",
    "torchao": "torchao", "aqlm": "AQLM", "fp8": "fine-grained FP8", "fbgemm_fp8": "FBGEMM FP8", "mxfp4": "MXFP4",
    "modelopt": "ModelOpt",
}  # fmt: skip
_SUFFIXES = {
    ".qweight": "GPTQ or AWQ", ".qzeros": "GPTQ or AWQ", ".absmax": "bitsandbytes", ".quant_map": "bitsandbytes",
    ".SCB": "bitsandbytes", ".weight_scale_inv": "fine-grained FP8",
}  # fmt: skip


def refuse_gguf(source: str) -> None:
    """Raise ModelRejected for the name of a GGUF file."""
    if source.lower().endswith(".gguf"):
        raise ModelRejected(f"it is a GGUF file, llama.cpp's format, which is not read. {WAY_OVER}.")


def check_quantization(declared: Any, where: str) -> None:
    """Raise ModelRejected for a `quantization_config` of weights that are not read. ``where``: its file."""
    fields: Mapping[str, Any] = declared if isinstance(declared, dict) else {}
    method = fields.get("quant_method") or (fields.get("load_in_4bit") and "bitsandbytes") or declared
    if method != COMPRESSED_TENSORS:
        title = _TITLES.get(str(method).lower(), str(method)[:60])
        raise ModelRejected(
            f"{where} declares quantized weights of {title}, which are not read; of quantized checkpoints, those of "
            f"compressed-tensors are (FP8, int8, int4). {WAY_OVER}."
        )
    groups = fields.get("config_groups")
    found = [
        fields.get("format"),
        *(one.get("format") for one in (groups.values() if isinstance(groups, dict) else ())),
    ]
    if other := [one for one in found if one is not None and one not in _READ]:
        raise ModelRejected(
            f"{where} declares compressed-tensors weights of the format {str(other[0])[:60]!r}; those read are "
            f"{', '.join(_READ[:-1])}. {WAY_OVER}."
        )
    for field, title in (("transform_config", "rotated weights"), ("sparsity_config", "sparse weights")):
        within = fields.get(field)
        if isinstance(within, dict) and (within.get("config_groups") or within.get("format") not in (None, "dense")):
            raise ModelRejected(f"{where} declares {title} ({field}), which are not read. {WAY_OVER}.")


def why_unreadable(tensor: StoredTensor, readable: str) -> str:
    """The reason why a tensor that is not stored as floating point is refused, with its maker where it shows."""
    stored = f"{tensor.name} in {tensor.file.name} is stored as {tensor.dtype}"
    for suffix, title in _SUFFIXES.items():
        if tensor.name.endswith(suffix):
            return f"{stored}: quantized weights of {title}, which are not read. {WAY_OVER}."
    return f"{stored}; the dtypes read are {readable}. Name the model in full precision."
