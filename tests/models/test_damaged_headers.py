"""Whatever is cut from a weight file, or changed in its header, is refused with the file's and the tensor's name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import ModelRejected
from app.models.loading import LoadedModel
from app.models.weights.checkpoint import open_checkpoint
from tests.models.broken import CUT, LAYOUTS, edit_header, in_layout, write_weights


@pytest.fixture(scope="module")
def layouts(processor_files: Path, loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    root = tmp_path_factory.mktemp("layouts")
    made = {}
    for layout in LAYOUTS:
        for shards in (1, CUT):
            made[layout, shards] = root / f"{layout}-{shards}"
            shutil.copytree(processor_files, made[layout, shards])
            write_weights(made[layout, shards], in_layout(loaded.model, layout), shards)
    return made


def _rename(header: dict[str, Any], name: str) -> None:
    header[name.replace("weight", "wait").replace("bias", "buys")] = header.pop(name)


def _reshape(header: dict[str, Any], name: str) -> None:
    header[name]["shape"] = [1, *header[name]["shape"]]


def _retype(header: dict[str, Any], name: str) -> None:
    header[name]["dtype"] = "I32"


def _shorten(header: dict[str, Any], name: str) -> None:
    header[name]["data_offsets"][1] -= 4


EDITS = {"delete": dict.pop, "rename": _rename, "reshape": _reshape, "retype": _retype, "shorten": _shorten}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_tensor_that_is_not_as_it_was_is_refused_by_name(data: st.DataObject, layouts: dict[Any, Path]) -> None:
    source = layouts[data.draw(st.sampled_from(sorted(layouts)))]
    file = source / data.draw(st.sampled_from(sorted(one.name for one in source.glob("*.safetensors"))))
    kept = file.read_bytes()
    length = int.from_bytes(kept[:8], "little")
    names = sorted(set(json.loads(kept[8 : 8 + length])) - {"__metadata__"})
    name, edit = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(sorted(EDITS)))
    try:
        edit_header(file, lambda header: EDITS[edit](header, name))
        with pytest.raises(ModelRejected) as caught:
            open_checkpoint(str(source))
    finally:
        file.write_bytes(kept)
    said = str(caught.value)
    assert file.name in said
    # bytes that no header claims are found at the tensor behind them
    assert edit in ("delete", "shorten") or name in said


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_that_are_cut_out_are_missed(data: st.DataObject, layouts: dict[Any, Path]) -> None:
    source = layouts[data.draw(st.sampled_from(sorted(layouts)))]
    file = source / data.draw(st.sampled_from(sorted(one.name for one in source.glob("*.safetensors"))))
    kept = file.read_bytes()
    length = int.from_bytes(kept[:8], "little")
    near = st.one_of(
        st.integers(0, len(kept) - 1), st.integers(0, 8 + length), st.integers(len(kept) - 64, len(kept) - 1)
    )
    start = data.draw(near)
    stop = data.draw(st.one_of(st.just(len(kept)), st.integers(start + 1, min(len(kept), start + 4096))))
    try:
        file.write_bytes(kept[:start] + kept[stop:])
        with pytest.raises(ModelRejected) as caught:
            open_checkpoint(str(source))
    finally:
        file.write_bytes(kept)
    said = str(caught.value)
    assert file.name in said
    if start >= 8 + length:  # the header is whole, and tells whose bytes are gone
        header = json.loads(kept[8 : 8 + length])
        ends = {one: entry["data_offsets"][1] + 8 + length for one, entry in header.items() if one != "__metadata__"}
        lost = [one for one in sorted(ends, key=ends.__getitem__) if ends[one] > len(kept) - (stop - start)]
        assert lost[0] in said
        assert f"({len(lost)} of {len(ends)} tensors)" in said
