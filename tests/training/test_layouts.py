"""Folders of corpora: every file becomes a row, or is told; splits are splits, and never classes."""

import itertools
import os
from collections import Counter
from pathlib import Path

import pytest

from app.jobs import dataset
from tests.training.sounds import babble, write, write_lines
from tests.training.sources import line, prepared, refused, rows, source
from training.data.fields import SPLITS
from training.data.rows import Row


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


def test_the_service_knows_the_same_names_of_splits():
    assert set(SPLITS) == dataset.SPLITS
