"""What tests of data sets share: rows of a source, and its refusal."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import DatasetError
from app.models.features import FeatureExtractor
from app.models.loading import LoadedModel
from app.settings import Settings
from training.data.readers import Source, read_source
from training.data.rows import Row
from training.options import TrainOptions
from training.prepare import Data, read_data

ASKED = "Transcribe."


def source(folder: Path, **options) -> Source:
    return read_source(str(folder), default_prompt=ASKED, **options)


def rows(folder: Path, **options) -> list[Row]:
    return source(folder, **options).rows


def refused(folder: Path, **options) -> str:
    with pytest.raises(DatasetError) as caught:
        source(folder, **options)
    return str(caught.value)


def line(name: str) -> str:
    return json.dumps({"audio": name, "text": name})


def prepared(folder: Path, fresh: LoadedModel, **options) -> Data:
    asked = TrainOptions.model_validate({"data": str(folder), "name": "x", **options})
    return read_data(asked, FeatureExtractor(fresh.processor), Settings())


def read_events(file: Path) -> list[dict[str, Any]]:
    """All whole lines of an event file."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # cut short by a kill
            continue
    return found
