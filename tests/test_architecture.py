"""The arrows between the rooms, and what importing a module may not do."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.models.family import families

ROOT = Path(__file__).parents[1]
# Each room and the rooms it may import; `errors` may be imported by all.
ALLOWED = {
    "app.errors": set(),
    "app.access": set(),
    "app.listening": set(),
    "app.logs": set(),
    "app.settings": set(),
    "app.audio": set(),
    "app.quantization": set(),
    "app.models": {"app.audio", "app.quantization"},
    "app.registry": {"app.access", "app.models"},
    "app.engine": {"app.audio", "app.quantization", "app.models", "app.registry"},
    "app.service": {"app.access", "app.audio", "app.models", "app.registry", "app.engine", "app.settings"},
    "app.bench": {
        "app.access", "app.audio", "app.quantization", "app.models", "app.registry", "app.engine", "app.settings",
        "app.service",
    },
    "app.jobs": {"app.access", "app.audio", "app.registry"},
    "app.feedback": {"app.access"},
    "app.api": {
        "app.access", "app.audio", "app.logs", "app.models", "app.registry", "app.engine", "app.jobs",
        "app.feedback", "app.settings", "app.service",
    },
    "app.main": {
        "app.audio", "app.logs", "app.models", "app.registry", "app.engine", "app.jobs", "app.settings", "app.service",
        "app.api", "app.listening",
    },
    "app.cli": {
        "app.access", "app.audio", "app.feedback", "app.logs", "app.quantization", "app.models", "app.registry",
        "app.engine", "app.settings", "app.service", "app.main", "app.bench", "app.listening",
    },
    "training": {"app.audio", "app.models", "app.registry", "app.settings"},
}  # fmt: skip
NEED_TRITON = (
    "app.quantization.kernels",
    "app.quantization.on_cuda",
    "app.engine.cuda.attention_kernels",
    "app.engine.cuda.int4_kernels",
    "app.engine.cuda.kernels",
    "app.engine.cuda.lora_kernels",
    "app.engine.cuda.encoder_graphs",
    "app.engine.cuda.linear",
    "app.engine.cuda.language_model",
    "app.engine.cuda.decoder",
)
TORCH_FREE = (
    "background",
    "config",
    "detokenizer",
    "grammar",
    "kv_cache.block_pool",
    "lora.slots",
    "request",
    "sampling_params",
    "scheduler",
    "sequence",
    "snapshot",
    "stats",
)
FAMILIES = ("qwen2_audio", "audio_flamingo3")
# What only a family may say: its name, its prompt's form, its parts' paths
FAMILY_FACTS = re.compile(
    r"qwen|flamingo|voxtral|chatml|im_start|im_end|endoftext|<\|audio|multi_modal_projector|"
    r"model\.(audio_tower|language_model)|feature_attention_mask|input_features",
    re.IGNORECASE,
)
# Modules that say it all the same, and why
SAY_IT = {
    "app.registry.adapter_files.unplaced_tensors": "recognises adapters of other models by their names",
    "app.bench.soak.payloads": "a hostile client writes a control token",
}
# Run in a fresh interpreter: any attempt to use what is forbidden ends it.
PROBE = """
import sys

def refuse(what):
    def call(*_, **__):
        sys.exit(f"importing {sys.argv[1]} touched {what}")
    return call

def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        refuse("the network")()

sys.addaudithook(hook)
import importlib, torch
torch.cuda.init = torch.cuda._lazy_init = refuse("the GPU")
import app.settings
app.settings.Settings.__init__ = refuse("the environment")
for name in sys.argv[1].split(","):
    importlib.import_module(name)
threads = __import__("threading").active_count()
sys.exit(f"importing started threads: {threads}" if threads > 1 else 0)
"""


def modules(*tops: str) -> dict[str, Path]:
    found = {}
    for top in tops:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """The modules that a file imports; with ``everywhere`` also inside functions."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str:
    """`app.engine.lora.slots` -> `app.engine`; everything under training is one room."""
    parts = module.split(".")
    return parts[0] if parts[0] == "training" else ".".join(parts[:2])


@pytest.mark.parametrize("module", sorted(modules("app", "training")))
def test_lower_rooms_never_import_upper_ones(module: str) -> None:
    own = room(module)
    if own == "app":
        return
    assert own in ALLOWED, f"give the new room {own} its place in ALLOWED"
    for imported in imports(modules("app", "training")[module]):
        other = room(imported)
        if other in ALLOWED and other not in {own, "app.errors"}:
            assert other in ALLOWED[own], f"{module} imports {imported}"


@pytest.mark.parametrize("name", TORCH_FREE)
def test_policy_modules_import_no_torch(name: str) -> None:
    """Neither directly nor through another module: in a fresh interpreter none of them has been loaded."""
    script = (
        f"import sys, app.engine.{name}; "
        "sys.exit(', '.join({m.partition('.')[0] for m in sys.modules} & {'torch', 'transformers', 'peft'}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"imported: {done.stderr}"


def test_only_families_know_a_family() -> None:
    """Outside `app/models` no module holds a fact of one architecture; `training/pretrain` makes a model of one."""
    found = {
        name: FAMILY_FACTS.findall(path.read_text())
        for name, path in modules("app", "training").items()
        if not name.startswith(("app.models.", "training.pretrain"))
    }
    assert {name for name, facts in found.items() if facts} == SAY_IT.keys(), found


def test_every_family_is_one_module() -> None:
    """Another family's module names none of the first; what they share has a module of its own."""
    members = {type(family).__module__ for family in families().values()}
    assert members == {f"app.models.{name}" for name in FAMILIES}
    for name, path in modules("app").items():
        if name.startswith("app.models.") and name not in (*members, "app.models.family"):
            assert not members & imports(path), name


def test_settings_is_the_only_reader_of_the_environment() -> None:
    for module, path in modules("app").items():
        if module in ("app.settings", "app.audio.forkserver"):  # the latter sets the import path of a child
            continue
        source = path.read_text()
        assert not re.search(r"\b(environ|getenv|envvar)\b", source), module


def test_importing_touches_no_gpu_network_or_thread() -> None:
    names = [name for name in modules("app") if name != "app.cli.__main__"]
    if importlib.util.find_spec("triton") is None:
        names = [name for name in names if name not in NEED_TRITON]
    command = [sys.executable, "-c", PROBE, ",".join(names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, app.cli.main; "
        "sys.exit(','.join(sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'torch', 'transformers', 'peft', 'fastapi', 'httpx', 'pydantic', 'numpy'})) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"imported at once: {done.stderr}"
