"""Folders of corpora: every file becomes a row, or is told; splits are splits, and never classes."""

import itertools
import json
import os
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from app.audio.decode import SUFFIXES, Limits
from app.errors import AudioError, DatasetError
from app.jobs import dataset
from app.model.base import LoadedModel
from app.model.features import FeatureExtractor
from app.settings import Settings
from tests.training.sounds import RATE, babble, wav, write, write_lines
from training.data.decoding import decode_sound
from training.data.fields import SPLITS
from training.data.readers import Source, read_source
from training.data.rows import Row, Sound
from training.options import TrainOptions
from training.prepare import Data, read_data

ASKED = "Transcribe."
LIMITS = Limits(60, 10 << 20)


def source(folder: Path, **options) -> Source:
    return read_source(str(folder), default_prompt=ASKED, **options)


def rows(folder: Path, **options) -> list[Row]:
    return source(folder, **options).rows


def refused(folder: Path, **options) -> str:
    with pytest.raises(DatasetError) as caught:
        source(folder, **options)
    return str(caught.value)


def labels(found: list[Row]) -> Counter:
    return Counter((row.split, row.label) for row in found)


@pytest.mark.parametrize("held", ["val", "valid", "validation", "dev", "eval", "Val", "dev-clean", "my_val"])
@pytest.mark.parametrize("train", ["train", "training", "Train", "train-clean-100"])
def test_folders_of_splits_around_folders_of_classes(tmp_path, train, held):
    for split, kind, number in itertools.product((train, held, "testing"), ("high", "low"), range(2)):
        write(tmp_path / split / kind / f"{number}.wav")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"x")
    (tmp_path / "README.md").write_text("about")
    found = source(tmp_path)
    assert labels(found.rows) == {(s, k): 2 for s in ("train", "validation", "test") for k in ("high", "low")}
    assert [name for name, _ in found.notes.passed_over] == ["pictures/a.png"]


def test_one_more_folder_beside_splits_is_asked_about(tmp_path):
    for name in ("train/high/1.wav", "test/high/1.wav", "extra/high/1.wav"):
        write(tmp_path / name)
    told = refused(tmp_path)
    assert "test, train is named like a split and extra is not" in told
    assert "or rename the classes" in told


def test_classes_beside_a_class_that_is_named_like_a_split(tmp_path):
    for name in ("dog/1.wav", "cat/1.wav", "train/1.wav"):
        write(tmp_path / name)
    assert "train is named like a split and cat, dog is not" in refused(tmp_path)
    os.rename(tmp_path / "train", tmp_path / "test-tone")
    assert {row.label for row in rows(tmp_path)} == {"dog", "cat", "test-tone"}


def test_splits_inside_classes_and_inside_wrapping_folders(tmp_path):
    for name in ("set/inner/rain/train/1.wav", "set/inner/rain/test/2.wav", "set/inner/wind/train/1.wav"):
        write(tmp_path / name)
    (tmp_path / "LICENSE").write_text("x")
    assert labels(rows(tmp_path)) == {("train", "rain"): 1, ("test", "rain"): 1, ("train", "wind"): 1}


def test_a_split_within_another_is_refused(tmp_path):
    write(tmp_path / "train" / "val" / "high" / "1.wav")
    write(tmp_path / "train" / "train" / "high" / "1.wav")
    write(tmp_path / "test" / "high" / "1.wav")
    assert "of train holds train, val; it can be one split" in refused(tmp_path)


def two(folder: Path) -> None:
    write(folder / "a.wav")
    write(folder / "b.wav")


def line(name: str) -> str:
    return json.dumps({"audio": name, "text": name})


@pytest.mark.parametrize(
    ("first", "second", "split"),
    [
        ("train.jsonl", "val.jsonl", "validation"),
        ("training.jsonl", "dev.jsonl", "validation"),
        ("data_train.jsonl", "data_eval.jsonl", "validation"),
        ("train-00000-of-00001.jsonl", "test-00000-of-00001.jsonl", "test"),
        ("train/metadata.jsonl", "valid/metadata.jsonl", "validation"),
    ],
)
def test_files_of_splits(tmp_path, first, second, split):
    for name in (first, second):
        two((tmp_path / name).parent)
    write_lines(tmp_path / first, [line("a.wav")])
    write_lines(tmp_path / second, [line("b.wav")])
    assert {row.response: row.split for row in rows(tmp_path)} == {"a.wav": "train", "b.wav": split}


def test_files_that_are_several_things_are_refused(tmp_path):
    two(tmp_path)
    write_lines(tmp_path / "train.jsonl", [line("a.wav")])
    (tmp_path / "train.csv").write_text("audio,text\na.wav,x\n")
    assert "several data files for train (train.csv, train.jsonl)" in refused(tmp_path)
    (tmp_path / "train.csv").rename(tmp_path / "train_test.csv")
    assert "says test and train" in refused(tmp_path)
    (tmp_path / "train_test.csv").rename(tmp_path / "more.csv")
    assert "one a split (train.jsonl, val.jsonl" in refused(tmp_path)


def test_a_row_of_another_split_than_its_files_is_refused(tmp_path):
    two(tmp_path)
    write_lines(tmp_path / "train.jsonl", [{"audio": "a.wav", "text": "x", "split": "test"}])
    write_lines(tmp_path / "val.jsonl", [{"audio": "b.wav", "text": "x", "split": "dev"}])
    assert "train.jsonl:1: its split is test, and it stands in a file or folder of train" in refused(tmp_path)


def test_shards_are_one_split(tmp_path):
    two(tmp_path)
    for number, name in enumerate(("a.wav", "b.wav")):
        write_lines(tmp_path / f"train-{number:05}-of-00002.jsonl", [line(name)])
    assert [row.split for row in rows(tmp_path)] == ["train", "train"]


def test_rows_are_in_the_split_of_their_recordings_folder(tmp_path):
    """A metadata file above folders of splits, as Hugging Face's audiofolder has it."""
    for name in ("train/a.wav", "test/b.wav", "clips/c.wav"):
        write(tmp_path / name)
    (tmp_path / "metadata.csv").write_text("file_name,transcription\ntrain/a.wav,x\ntest/b.wav,y\n")
    found = source(tmp_path)
    assert [row.split for row in found.rows] == ["train", "test"]
    assert found.notes.passed_over == [("clips/c.wav", "no row names this recording")]
    (tmp_path / "metadata.csv").write_text("file_name,transcription\ntest/b.wav,y\n")
    assert [row.split for row in rows(tmp_path)] == [None], "one folder says nothing"


def prepared(folder: Path, fresh: LoadedModel, **options) -> Data:
    asked = TrainOptions.model_validate({"data": str(folder), "name": "x", **options})
    return read_data(asked, FeatureExtractor(fresh.processor), Settings())


def test_a_test_split_is_never_trained_on_and_the_report_says_so(tmp_path, fresh):
    for split in ("train", "val", "test"):
        write_lines(tmp_path / f"{split}.jsonl", [line(f"{split}{number}.wav") for number in range(2)])
        for number in range(2):
            write(tmp_path / f"{split}{number}.wav")
    data = prepared(tmp_path, fresh)
    assert {row.split for row in data.train} == {"train"}
    assert {row.split for row in data.validation} == {"validation"}
    assert [(one.name, one.rows, one.use) for one in data.splits] == [
        ("train", 2, "train"), ("validation", 2, "held_out"), ("test", 2, "unused"),
    ]  # fmt: skip
    other = prepared(tmp_path, fresh, validation=str(tmp_path / "val.jsonl"))
    assert {row.split for row in other.train} == {"train"}, "rows marked test are not trained on beside --validation"


def test_common_voice(tmp_path):
    for name in ("a", "b", "c", "d"):
        write(tmp_path / "clips" / f"{name}.wav")
    header = "client_id\tpath\tsentence\tup_votes\tlocale\n"
    for table, name in (("train", "a"), ("dev", "b"), ("test", "c"), ("invalidated", "d"), ("validated", "a")):
        (tmp_path / f"{table}.tsv").write_text(f'{header}9\t{name}.wav\t"Said {name}\t2\tde\n')
    found = source(tmp_path)
    assert sorted((row.split, row.response) for row in found.rows) == [
        ("test", '"Said c'),
        ("train", '"Said a'),
        ("validation", '"Said b'),
    ]
    assert {name for name, _ in found.notes.passed_over} == {"invalidated.tsv", "validated.tsv", "clips/d.wav"}
    assert found.notes.idle == {"client_id", "up_votes", "locale"}


def test_librispeech(tmp_path):
    for split, speaker in (("train-clean-100", "19"), ("dev-clean", "84"), ("test-other", "61")):
        folder = tmp_path / "LibriSpeech" / split / speaker / "198"
        for number in range(2):
            write(folder / f"{speaker}-198-000{number}.flac")
        lines = [f"{speaker}-198-000{number} WORDS OF {split} {number}" for number in range(2)]
        (folder / f"{speaker}-198.trans.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "LibriSpeech" / "SPEAKERS.TXT").write_text("; about")
    found = source(tmp_path)
    assert {(row.split, row.response) for row in found.rows} == {
        (split, f"WORDS OF {folder} {number}")
        for split, folder in (("train", "train-clean-100"), ("validation", "dev-clean"), ("test", "test-other"))
        for number in range(2)
    }
    assert [name for name, _ in found.notes.passed_over] == ["LibriSpeech/SPEAKERS.TXT"]
    (tmp_path / "LibriSpeech" / "dev-clean" / "84" / "198" / "84-198-0001.flac").unlink()
    write(tmp_path / "LibriSpeech" / "dev-clean" / "84" / "198" / "84-198-0009.flac")
    told = refused(tmp_path)
    assert "84-198.trans.txt:2: names no recording that is there" in told
    assert "84-198-0009.flac: has no line in the list of transcripts" in told


def test_aishell(tmp_path):
    for split in ("train", "dev", "test"):
        write(tmp_path / "wav" / split / "S0002" / f"{split}1.wav")
    (tmp_path / "transcript").mkdir()
    lines = [f"{split}1 你好 {split}" for split in ("train", "dev", "test")]
    (tmp_path / "transcript" / "aishell_transcript_v0.8.txt").write_text("\n".join(lines), encoding="utf-8")
    assert {(row.split, row.response) for row in rows(tmp_path)} == {
        ("train", "你好 train"), ("validation", "你好 dev"), ("test", "你好 test"),
    }  # fmt: skip


def test_voxforge(tmp_path):
    for speaker in ("ann-2010", "bob-2011"):
        for number in (1, 2):
            write(tmp_path / speaker / "wav" / f"a000{number}.wav")
        (tmp_path / speaker / "etc").mkdir()
        lines = [f"{speaker}/mfc/a000{number} {speaker} SAID {number}" for number in (1, 2)]
        (tmp_path / speaker / "etc" / "PROMPTS").write_text("\n".join(lines))
        (tmp_path / speaker / "etc" / "prompts-original").write_text("a0001 Said.\n")
    found = source(tmp_path)
    assert {row.sounds[0].name: row.response for row in found.rows} == {
        f"{speaker}/wav/a000{number}.wav": f"{speaker} SAID {number}"
        for speaker in ("ann-2010", "bob-2011")
        for number in (1, 2)
    }
    assert {Path(name).name for name, _ in found.notes.passed_over} == {"prompts-original"}


def test_class_folders_beside_a_text_are_no_corpus(tmp_path):
    for name in ("train/rain/1.wav", "val/rain/2.wav"):
        write(tmp_path / name)
    (tmp_path / "transcripts.txt").write_text("nothing of it\n")
    assert labels(rows(tmp_path)) == {("train", "rain"): 1, ("validation", "rain"): 1}


def test_kaldi(tmp_path):
    for split in ("train", "test"):
        folder = tmp_path / "data" / split
        write(tmp_path / "audio" / f"{split}.wav", babble(2))
        folder.mkdir(parents=True)
        (folder / "wav.scp").write_text(f"rec-{split} audio/{split}.wav\n")
        (folder / "segments").write_text(f"u1 rec-{split} 0.5 1.25\nu2 rec-{split} 1.25 2\n")
        (folder / "text").write_text("u1 one two\nu2 three\n")
        (folder / "utt2spk").write_text("u1 s\nu2 s\n")
    found = rows(tmp_path)
    assert [(row.split, row.response, row.sounds[0].start, row.sounds[0].end) for row in found] == [
        ("test", "one two", 0.5, 1.25),
        ("test", "three", 1.25, 2.0),
        ("train", "one two", 0.5, 1.25),
        ("train", "three", 1.25, 2.0),
    ]
    (folder / "wav.scp").write_text("rec-test sph2pipe -f wav x.sph |\n")
    (folder / "segments").unlink()
    (folder / "text").write_text("rec-test words\n")
    assert "a command, which is not run" in refused(tmp_path)


def test_nemo_manifest(tmp_path):
    write(tmp_path / "long.wav", babble(3))
    row = {"audio_filepath": "long.wav", "text": "x", "duration": 0.5, "offset": 1.0}
    (found,) = rows(write_lines(tmp_path / "manifest.jsonl", [row]))
    assert (found.sounds[0].start, found.sounds[0].end) == (1.0, 1.5)
    (found,) = rows(write_lines(tmp_path / "manifest.jsonl", [{**row, "offset": 0}]))
    assert (found.sounds[0].start, found.sounds[0].end) == (None, 0.5)


PARTS = {
    "start,end": ((0.5, 1.25), (0.5, 1.25)),
    "start_ms,end_ms": ((500, 1250), (0.5, 1.25)),
    "Start (ms),End (ms)": ((500, 1250), (0.5, 1.25)),
    "onset,offset": ((0.5, 1.25), (0.5, 1.25)),
    "offset,duration": ((0.5, 0.75), (0.5, 1.25)),
    "begin_time,end_time": (("0:00.5", "0:01,25"), (0.5, 1.25)),
    "start": ((0.5,), (0.5, None)),
    "end": ((1.25,), (None, 1.25)),
    "start_seconds,duration_s": ((0.5, 0.75), (0.5, 1.25)),
}


@pytest.mark.parametrize("names", PARTS)
def test_a_part_of_a_recording(tmp_path, names):
    samples = babble(2)
    write(tmp_path / "a.wav", samples)
    values, (start, end) = PARTS[names]
    row = {"audio": "a.wav", "text": "x", **dict(zip(names.split(","), values, strict=True))}
    (found,) = rows(write_lines(tmp_path / "data.jsonl", [row]))
    heard = decode_sound(found.sounds[0], rate=RATE, limits=LIMITS)
    wanted = samples[int((start or 0) * RATE) : int((end or 2) * RATE)]
    np.testing.assert_allclose(heard.samples, wanted, atol=1e-4)
    assert heard.receipt.seconds == pytest.approx(len(wanted) / RATE, abs=1e-3)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"start": 1, "end": 1}, "there is no part from 1 s to 1 s"),
        ({"start": 2, "end": 1}, "there is no part"),
        ({"start": -1, "end": 1}, "start must be a time in seconds"),
        ({"start": "soon"}, "start must be a time in seconds, not 'soon'"),
        ({"start": True, "end": 2}, "start must be a time in seconds"),
        ({"start_samples": 8000, "end_samples": 16000}, "counts samples"),
        ({"start_ms": 100, "end": 1}, "start_ms says its unit and end does not"),
        ({"start": 0.1, "begin": 0.2, "end": 1}, "name different times"),
        ({"audio": ["a.wav", "a.wav"], "start": 0, "end": 1}, "a part of one recording, and here are 2"),
    ],
)
def test_a_part_that_is_unclear_is_refused(tmp_path, more, words):
    write(tmp_path / "a.wav")
    told = refused(write_lines(tmp_path / "data.jsonl", [{"audio": "a.wav", "text": "x", **more}]))
    assert words in told
    assert "data.jsonl:1" in told


def test_a_part_beyond_the_end_is_unreadable(tmp_path):
    write(tmp_path / "a.wav", babble(1))
    row = {"audio": "a.wav", "text": "x"}
    found = rows(write_lines(tmp_path / "d.jsonl", [{**row, "start": 500, "end": 900}, {**row, "end": 1.05}]))
    with pytest.raises(AudioError, match="start_ms and end_ms: milliseconds"):
        decode_sound(found[0].sounds[0], rate=RATE, limits=LIMITS)
    assert decode_sound(found[1].sounds[0], rate=RATE, limits=LIMITS).receipt.seconds == 1.0


def test_parts_of_one_recording_stay_on_one_side(tmp_path, fresh):
    lines = []
    for name in "abcdef":
        write(tmp_path / f"{name}.wav", babble(2, ord(name)))
        lines += [{"audio": f"{name}.wav", "start": n / 2, "end": n / 2 + 0.5, "text": f"{name}{n}"} for n in range(4)]
    data = prepared(write_lines(tmp_path / "data.jsonl", lines), fresh)
    sides = [{row.sounds[0].name for row in side} for side in (data.train, data.validation)]
    assert not sides[0] & sides[1]
    assert len(data.train) + len(data.validation) == 24
    one = prepared(write_lines(tmp_path / "one.jsonl", lines[:4]), fresh)
    assert len(one.validation) == 1, "a single recording is divided by its parts"


def test_every_suffix_of_a_recording_counts_and_others_are_told(tmp_path):
    for number, suffix in enumerate(sorted(SUFFIXES)):
        (tmp_path / "rain").mkdir(exist_ok=True)
        (tmp_path / "rain" / f"{number}{suffix.upper() if number % 2 else suffix}").write_bytes(
            wav(babble(0.3, number))
        )
    hidden = ("rain/._1.wav", "rain/.DS_Store", "__MACOSX/rain/1.wav", ".git/config")
    for name in (*hidden, "rain/x.xyz", "rain/none"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = source(tmp_path)
    assert len(found.rows) == len(SUFFIXES)
    assert dict(found.notes.passed_over) == {
        **dict.fromkeys(hidden, "a hidden file"),
        "rain/x.xyz": "no recording and no data file by its name",
        "rain/none": "no recording and no data file by its name",
    }


@pytest.mark.parametrize(("named", "lies"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_names_in_either_unicode_form(tmp_path, named, lies):
    stem = "für Elise é"
    write(tmp_path / unicodedata.normalize(lies, f"Ordner ü/{stem}.wav"))
    row = {"audio": unicodedata.normalize(named, f"Ordner ü/{stem}.wav"), "text": "x"}
    (found,) = rows(write_lines(tmp_path / "data.jsonl", [row]))
    assert found.sounds[0].read()[:4] == b"RIFF"
    beside = tmp_path / "beside"
    write(beside / unicodedata.normalize(lies, f"{stem}.wav"))
    (beside / unicodedata.normalize(named, f"{stem}.txt")).write_text("words")
    assert [row.response for row in rows(beside)] == ["words"]


def test_names_that_differ_in_capitals(tmp_path):
    write(tmp_path / "Clips" / "A.WAV")
    source = write_lines(tmp_path / "data.jsonl", [line("clips/a.wav")])
    assert rows(source)[0].sounds[0].path == tmp_path / "Clips" / "A.WAV"
    write(tmp_path / "Clips" / "a.wav")
    assert rows(source)[0].sounds[0].path == tmp_path / "Clips" / "a.wav"
    assert "may be Clips/" in refused(write_lines(tmp_path / "data.jsonl", [line("clips/A.wav")]))


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


def test_the_service_knows_the_same_names_of_splits():
    assert set(SPLITS) == dataset.SPLITS
    assert isinstance(Sound("x", data=b""), Sound)
