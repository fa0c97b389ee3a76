"""Names of the files that make an adapter or a classification head."""

from app.models import head
from app.registry.adapter_files.config import FILE as CONFIG
from app.registry.adapter_files.manifest import FILE as MANIFEST
from app.registry.adapter_files.weights import WEIGHTS

CONFIGS = (CONFIG, head.CONFIG)  # every adapter has one of them
OWN = (CONFIG, WEIGHTS, head.CONFIG, head.WEIGHTS)
KEPT = {*OWN, MANIFEST, "README.md"}
PICKLE = "adapter_model.bin"  # the weights that PEFT wrote before safetensors
