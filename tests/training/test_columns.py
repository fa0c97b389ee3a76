"""Parquet, Arrow and saved data sets: their rows, and no file but their own."""

import json
from pathlib import Path

import pytest

from tests.training.sounds import babble, wav, write
from tests.training.sources import refused, rows, source


def test_parquet_alone_and_in_a_folder(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    cells = [{"bytes": wav(babble(0.3, seed)), "path": f"{seed}.wav"} for seed in range(5)]
    table = pyarrow.table({"clip": cells, "text": list("abcde"), "snr": [1.5] * 5})
    (tmp_path / "data").mkdir()
    parquet.write_table(table.slice(0, 3), tmp_path / "data" / "train-00000-of-00001.parquet", row_group_size=2)
    parquet.write_table(table.slice(3), tmp_path / "data" / "test-00000-of-00001.parquet")
    found = source(tmp_path)
    assert sorted((row.split, row.response) for row in found.rows) == [
        ("test", "d"), ("test", "e"), ("train", "a"), ("train", "b"), ("train", "c"),
    ]  # fmt: skip
    by_text = {row.response: row.sounds[0].read() for row in found.rows}
    assert by_text == {text: cell["bytes"] for text, cell in zip("abcde", cells, strict=True)}
    assert found.notes.passed_over == []
    alone = rows(tmp_path / "data" / "test-00000-of-00001.parquet")
    assert [(row.place, row.split) for row in alone] == [
        ("test-00000-of-00001.parquet[0]", None),
        ("test-00000-of-00001.parquet[1]", None),
    ]
    parquet.write_table(pyarrow.table({"a": cells, "b": cells, "text": list("abcde")}), tmp_path / "two.parquet")
    assert "several columns of audio (a, b)" in refused(tmp_path / "two.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    assert "'broken.parquet' cannot be read" in refused(tmp_path / "broken.parquet")


def saved(folder: Path, paths: list[str]) -> Path:
    """What `save_to_disk` writes of a column of audio whose cells name files."""
    datasets = pytest.importorskip("datasets")
    kind = {"audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    cells = [{"bytes": None, "path": path} for path in paths]
    made = datasets.Dataset.from_dict(
        {"audio": cells, "text": [f"t{number}" for number in range(len(paths))]},
        features=datasets.Features({**kind, "text": datasets.Value("string")}),
    )
    made.save_to_disk(str(folder))
    info = json.loads((folder / "dataset_info.json").read_text())
    info["features"]["audio"] = {"_type": "Audio"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


@pytest.mark.parametrize("deep", [".", "train/train/train/train"])
def test_a_saved_data_set_opens_nothing_but_its_own_files(tmp_path, deep):
    outside = write(tmp_path / "outside" / "secret.wav")
    inside = write(tmp_path / "set" / deep / "own.wav")
    saved(tmp_path / "set" / deep, ["own.wav", str(inside), str(outside), "/etc/passwd", "/no/such/file"])
    found = rows(tmp_path / "set", audio_roots=[tmp_path / "set"])
    assert [row.sounds[0].read()[:4] for row in found[:2]] == [b"RIFF", b"RIFF"]
    for row in found[2:]:  # what is there is not told from what is not
        with pytest.raises(OSError, match=r"^the recording '.* lies outside the data set$"):
            row.sounds[0].read()
    assert rows(tmp_path / "set")[2].sounds[0].read()[:4] == b"RIFF", "without roots a machine's own files may be read"


@pytest.mark.parametrize("name", ["../other/data-00000-of-00001.arrow", "/etc/passwd", "..", ""])
def test_a_saved_data_set_names_no_files_of_others(tmp_path, name):
    saved(tmp_path / "other", ["a.wav"])
    folder = saved(tmp_path / "set", ["a.wav"])
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": name}]}))
    assert "names no files of it" in refused(folder, audio_roots=[folder])
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [name]}))
    assert "names no files of it" in refused(folder, audio_roots=[folder])
