"""Faults are injected for real: signals, full and read-only disks, flipped bytes, allocations that fail."""

from tests.api import conftest as api
from tests.api import test_process
from tests.engine import conftest as engine
from tests.registry import conftest as registries

model_folder, adapter_folders, settings, running = api.model_folder, api.adapter_folders, api.settings, api.running
drive, expected = engine.drive, engine.expected
registry = registries.registry
start = test_process.start
