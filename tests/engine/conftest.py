from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.models.loading import LoadedModel
from tests.engine.driver import Driver, Oracle


@pytest.fixture(scope="session")
def expected(loaded: LoadedModel, folders: dict[str, Path]) -> Oracle:
    return Oracle(loaded, folders)


@pytest.fixture
def drive(tmp_path: Path, folders: dict[str, Path]) -> Iterator[Callable[..., Driver]]:
    """Makes engines with the limits a test asks for, and closes them."""
    made: list[Driver] = []

    def make(**limits: Any) -> Driver:
        made.append(Driver(tmp_path / f"registry{len(made)}", folders, **limits))
        return made[-1]

    yield make
    for driver in made:
        driver.engine.close()
