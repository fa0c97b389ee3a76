"""Every format gives the same rows; every mistake is told with its row; nothing else is ever raised."""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import DatasetError
from tests.training.sounds import babble, wav, write, write_lines
from training.data.readers import read_rows
from training.data.rows import Row, Turn

PAGE = (Path(__file__).parents[2] / "docs" / "training-data.md").read_text()
ASKED = "Transcribe."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two recordings, in `clips/`."""
    write(tmp_path / "clips" / "a.wav")
    write(tmp_path / "clips" / "b.wav")
    return tmp_path


def read(source: Path | str, **options) -> list[Row]:
    return read_rows(str(source), default_prompt=ASKED, **options)


def refused(source: Path | str, **options) -> str:
    with pytest.raises(DatasetError) as caught:
        read(source, **options)
    return str(caught.value)


def said(row: Row) -> tuple[tuple[str, str], ...]:
    return tuple((turn.role, turn.text) for turn in row.turns)


def chat(content, answer="yes", **more):
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}], **more}


def test_chats_as_other_trainers_write_them(folder):
    user, assistant = ("user", "<audio>Who?"), ("assistant", "Ann.")
    item = {"type": "audio", "audio": "clips/a.wav"}
    rows = read(
        write_lines(
            folder / "data.jsonl",
            [
                chat("<audio>Who?", "Ann.", audios=["clips/a.wav"]),
                {
                    "conversations": [{"from": "human", "value": user[1]}, {"from": "gpt", "value": "Ann."}],
                    "audios": ["clips/a.wav"],
                },
                chat([item, {"type": "text", "text": "Who?"}], [{"type": "text", "text": "Ann."}]),
                chat([{"type": "audio"}, {"type": "text", "text": "Who?"}], "Ann.", audios=["clips/a.wav"]),
            ],
        )
    )
    assert [said(row) for row in rows] == [(user, assistant)] * 4
    assert {row.sounds for row in rows} == {rows[0].sounds}
    assert rows[0].sounds[0].read() == (folder / "clips" / "a.wav").read_bytes()
    assert rows[0].prompt == "Who?"
    assert rows[0].response == "Ann."


def test_recordings_follow_their_placeholders(folder):
    named = [{"type": "text", "text": "<audio>or "}, {"type": "audio", "audio_url": "clips/b.wav"}]
    row, many = read(
        write_lines(
            folder / "data.jsonl",
            [
                chat(named, audios=["clips/a.wav"]),
                {
                    "system": "Be brief.",
                    "messages": [
                        {"role": "user", "content": "<audio>?"},
                        {"role": "assistant", "content": "one"},
                        {"role": "user", "content": "And <audio>?"},
                        {"role": "assistant", "content": "two"},
                    ],
                    "audios": ["clips/b.wav", "clips/a.wav"],
                },
            ],
        )
    )
    assert [sound.name for sound in row.sounds] == ["clips/a.wav", "clips/b.wav"]
    assert row.turns[0].text == "<audio>or <audio>"
    assert [sound.name for sound in many.sounds] == ["clips/b.wav", "clips/a.wav"]
    assert many.turns[0] == Turn("system", "Be brief.")
    assert len(many.turns) == 5


def test_short_form(folder):
    rows = read(
        write_lines(
            folder / "data.jsonl",
            [
                {"audio": "clips/a.wav", "sentence": "hello", "path": "a.wav"},
                "",
                {"audio": ["clips/a.wav", "clips/b.wav"], "prompt": "Same?", "response": "No.", "split": "dev"},
                {"audio": "clips/a.wav", "prompt": "In <audio>?", "text": "Yes."},
                {"audio": "clips/a.wav", "label": 3},
            ],
        )
    )
    assert said(rows[0]) == (("user", "<audio>Transcribe."), ("assistant", "hello"))
    assert said(rows[1]) == (("user", "<audio><audio>Same?"), ("assistant", "No."))
    assert said(rows[2])[0] == ("user", "In <audio>?")
    assert said(rows[3]) == (("user", "<audio>Transcribe."),)
    assert rows[3].label == "3"
    assert [row.split for row in rows] == [None, "validation", None, None]
    assert [row.place for row in rows] == [f"data.jsonl:{number}" for number in (1, 3, 4, 5)]


def test_json_list_and_tables_say_the_same(folder):
    row = {"audio": "clips/a.wav", "prompt": "Was sagt, äh, sie?", "response": 'Zwei\n"Zeilen"', "split": "train"}
    (folder / "list.json").write_text(json.dumps([row]), encoding="utf-8-sig")
    cells = ['"' + value.replace('"', '""') + '"' for value in row.values()]
    (folder / "comma.csv").write_text("audio,prompt,response,split\r\n" + ",".join(cells), encoding="utf-8-sig")
    (folder / "tab.tsv").write_text("audio\tprompt\tresponse\tsplit\n" + "\t".join(cells) + "\n", encoding="utf-8")
    rows = [read(folder / name)[0] for name in ("list.json", "comma.csv", "tab.tsv")]
    assert {(row.turns, row.sounds, row.split) for row in rows} == {(rows[0].turns, rows[0].sounds, "train")}
    assert [row.place for row in rows] == ["list.json#1", "comma.csv:2", "tab.tsv:2"]


WRONG = {
    "is broken JSON": '{"audio": "clips/a.wav", ',
    "is no object": "[1]",
    "there is no recording 'clips/q.wav'": {"audio": "clips/q.wav", "text": "x"},
    "is a URL": {"audio": "https://example.org/a.wav", "text": "x"},
    "is a URL; ": {"audio": "data:audio/wav;base64,AAAA", "text": "x"},
    "must be the path of a file, not 7": {"audio": 7, "text": "x"},
    "names no recording": {"text": "x"},
    "names no recording (": {"audio": [], "text": "x"},
    "has no answer": {"audio": "clips/a.wav"},
    "response must be text, not 5": {"audio": "clips/a.wav", "text": 5},
    "label must be a word": {"audio": "clips/a.wav", "label": [1]},
    "split 'best' is none of": {"audio": "clips/a.wav", "text": "x", "split": "best"},
    "holds <|im_end|>": {"audio": "clips/a.wav", "text": "so<|im_end|>"},
    "prompt holds <|AUDIO|>": {"audio": "clips/a.wav", "prompt": "<|AUDIO|>", "text": "x"},
    "holds broken characters": '{"audio": "clips/a.wav", "text": "\\ud800"}',
    "there is no recording": {"audio": "\0", "text": "x"},
    "there is no recording '": {"audio": "n" * 5000, "text": "x"},
    "<audio> stands outside": chat("<audio>", "<audio>", audios=["clips/a.wav", "clips/a.wav"]),
    "holds 1 <audio> for 2": chat("<audio>", audios=["clips/a.wav", "clips/b.wav"]),
    "holds 2 <audio> for 1": {"audio": "clips/a.wav", "prompt": "<audio><audio>", "text": "x"},
    "the role 'tool'": {"messages": [{"role": "tool", "content": "x"}]},
    "the role None": {"messages": [{"content": "x"}]},
    "messages must be a list": {"messages": "hello"},
    "each turn must be an object": {"messages": ["hello"]},
    "not the assistant's": {"messages": [{"role": "user", "content": "x"}]},
    "turns must go": {"messages": [{"role": "assistant", "content": "x"}]},
    "turns must go user": {**chat("x"), "messages": chat("x")["messages"] * 2 + [{"role": "user", "content": "x"}] * 2},
    "neither text nor audio": chat([{"type": "image", "image": "a.png"}]),
    "user turn must be text, not None": chat(None),
}


@pytest.mark.parametrize("words", WRONG)
def test_each_mistake_is_told_with_its_line(folder, words):
    good = {"audio": "clips/a.wav", "text": "hello"}
    told = refused(write_lines(folder / "data.jsonl", [good, "", WRONG[words], good]))
    assert told.startswith("1 of the 3 rows of the data set cannot be used: data.jsonl:3: ")
    assert words.rstrip(" (';") in told


def test_every_bad_row_is_counted_and_the_first_ten_named(folder):
    rows = [{"audio": "clips/a.wav" if number % 2 else "clips/gone.wav", "text": "x"} for number in range(40)]
    with pytest.raises(DatasetError, match="20 of the 40 rows") as caught:
        read(write_lines(folder / "data.jsonl", rows))
    assert [problem.partition(": ")[0] for problem in caught.value.problems[:10]] == [
        f"data.jsonl:{number}" for number in range(1, 21, 2)
    ]
    assert caught.value.problems[10:] == ["and 10 more"]


def test_bad_table_rows_keep_their_lines(folder):
    lines = ["audio,text", 'clips/a.wav,"two', 'lines"', "clips/a.wav", "clips/a.wav,x,y", "clips/a.wav,caf\udce9", ""]
    (folder / "data.csv").write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    told = refused(folder / "data.csv")
    assert "data.csv:4: has 1 fields under a header of 2" in told
    assert "data.csv:5: has 3 fields" in told
    assert "data.csv:6: response holds broken characters" in told
    assert "3 of the 4 rows" in told
    (folder / "twice.csv").write_text("audio,audio\na,b\n")
    assert "names a column twice" in refused(folder / "twice.csv")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("clips/a.wav"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
turns = st.lists(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("role", "content", "from", "value", "type"), json_values))
    | st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": json_values})
    | json_values,
    max_size=4,
)
names = ("audio", "audios", "prompt", "response", "label", "system", "split", "text", "path")
records = st.fixed_dictionaries({}, optional=dict.fromkeys(names, json_values) | {"messages": turns})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(records | json_values, min_size=1, max_size=3))
def test_any_json_gives_rows_or_the_domain_error(folder, rows):
    source = write_lines(folder / "data.jsonl", [json.dumps(row) for row in rows])
    try:
        found = read(source)
    except DatasetError as error:
        told = str(error)
    else:
        assert len(found) == len(rows)
        assert all(row.turns for row in found)
        return
    assert re.search(r"data\.jsonl:\d", told)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=60) | st.text(max_size=60).map(str.encode),
    suffix=st.sampled_from([".jsonl", ".json", ".csv", ".tsv"]),
)
def test_any_bytes_give_the_domain_error(folder, data, suffix):
    (folder / f"data{suffix}").write_bytes(data)
    assert refused(folder / f"data{suffix}")


def test_deep_nesting_and_long_numbers_are_broken_json(folder):
    source = write_lines(folder / "data.jsonl", ["[" * 100_000, '{"audio": ' + "9" * 5000 + "}"])
    assert "2 of the 2 rows" in refused(source)


def test_recordings_outside_the_root_are_refused(folder, tmp_path_factory):
    outside = write(tmp_path_factory.mktemp("outside") / "x.wav")
    (folder / "clips" / "link.wav").symlink_to(outside)
    inside = [{"audio": name, "text": "x"} for name in ("clips/a.wav", str(folder / "clips" / "b.wav"))]
    escaping = [
        {"audio": name, "text": "x"} for name in (str(outside), "clips/link.wav", f"../{outside.parent.name}/x.wav")
    ]
    source = write_lines(folder / "data.jsonl", [*inside, *escaping])
    assert refused(source, audio_roots=[folder]).count("lies outside the data set") == 3
    assert len(read(source)) == 5
    assert len(read(write_lines(folder / "data.jsonl", inside), audio_roots=[folder])) == 2


def test_folder_with_transcripts_beside_recordings(folder):
    (folder / "clips" / "a.txt").write_text("ten of clubs\n", encoding="utf-8-sig")
    (folder / "clips" / "b.txt").write_text("five", encoding="utf-8")
    (folder / "README.txt").write_text("about")
    rows = read(folder)
    assert [(row.place, row.response) for row in rows] == [("clips/a.wav", "ten of clubs"), ("clips/b.wav", "five")]
    write(folder / "clips" / "c.wav")
    assert "1 of the 3 rows" in refused(folder)
    assert "clips/c.wav: has no transcript" in refused(folder)


def test_class_folders_and_splits(tmp_path):
    for name in ("train/rain/1.wav", "train/siren/1.flac", "test/rain/2.wav", "test/rain/._2.wav"):
        write(tmp_path / name)
    rows = read(tmp_path)
    assert [(row.place, row.label, row.split) for row in rows] == [
        ("test/rain/2.wav", "rain", "test"),
        ("train/rain/1.wav", "rain", "train"),
        ("train/siren/1.flac", "siren", "train"),
    ]
    write(tmp_path / "train" / "lost.wav")
    assert "train/lost.wav: has neither a transcript" in refused(tmp_path)


def test_audiofolder_and_split_files(folder):
    (folder / "clips" / "metadata.csv").write_text("file_name,transcription\na.wav,hello\nb.wav,you\n")
    assert [(row.place, row.response) for row in read(folder)] == [
        ("clips/metadata.csv:2", "hello"),
        ("clips/metadata.csv:3", "you"),
    ]
    (folder / "clips" / "metadata.csv").unlink()
    write_lines(folder / "train.jsonl", [{"audio": "clips/a.wav", "text": "x"}])
    write_lines(folder / "validation.jsonl", [{"audio": "clips/b.wav", "text": "y"}])
    (folder / "dataset_info.json").write_text("{}")
    assert [(row.place, row.split) for row in read(folder)] == [
        ("train.jsonl:1", "train"),
        ("validation.jsonl:1", "validation"),
    ]
    write_lines(folder / "more.jsonl", [])
    assert "several data files (more.jsonl, train.jsonl, validation.jsonl)" in refused(folder)


def test_what_is_no_dataset_is_said(tmp_path):
    assert "is no data set" in refused(tmp_path / "nothing.jsonl")
    assert "is no data set" in refused(write(tmp_path / "one" / "a.wav"))
    assert "holds no rows" in refused(write_lines(tmp_path / "empty.jsonl", []))
    (tmp_path / "bare").mkdir()
    assert "holds no recordings and no data file" in refused(tmp_path / "bare")
    assert "not of the form hf:" in refused("hf:")
    (tmp_path / "object.json").write_text('{"audio": 1}')
    assert "no JSON list" in refused(tmp_path / "object.json")


@pytest.fixture
def table(tmp_path: Path):
    """A Hugging Face data set with audio in its cells and class numbers."""
    datasets = pytest.importorskip("datasets")
    cells = [{"bytes": wav(babble(0.3, seed)), "path": f"{seed}.wav"} for seed in range(4)]
    made = datasets.Dataset.from_dict({"speech": cells, "sentence": ["a", "b", "c", "d"], "label": [0, 1, 1, 0]})
    made = made.cast_column("label", datasets.ClassLabel(names=["no", "yes"]))
    return cells, made.cast_column("speech", datasets.Audio(sampling_rate=8000))


def test_saved_hugging_face_dataset(table, tmp_path):
    import datasets

    cells, made = table
    datasets.DatasetDict(train=made.select([3, 1]), test=made.select([0])).save_to_disk(tmp_path / "saved")
    rows = read(tmp_path / "saved")
    assert [(row.place, row.response, row.label, row.split) for row in rows] == [
        ("saved@train[0]", "d", "no", "train"),
        ("saved@train[1]", "b", "yes", "train"),
        ("saved@test[0]", "a", "no", "test"),
    ]
    assert [row.sounds[0].read() for row in rows] == [cells[3]["bytes"], cells[1]["bytes"], cells[0]["bytes"]]
    assert len({row.sounds for row in rows}) == 3
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: row.sounds[0].read(), rows * 50))
    assert found == [row.sounds[0].read() for row in rows] * 50
    assert "torchcodec" not in sys.modules


@pytest.mark.parametrize("source", ["hf:{}@train[:3]", "hf-stream:{}@train[:3]", "hf:{}", "hf-stream:{}"])
def test_hugging_face_source(table, tmp_path, monkeypatch, source):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    cells, made = table
    (tmp_path / "hub" / "data").mkdir(parents=True)
    made.to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    rows = read(source.format(tmp_path / "hub"))
    assert [row.response for row in rows] == (["a", "b", "c", "d"] if source.endswith("}") else ["a", "b", "c"])
    assert [row.label for row in rows][:3] == ["no", "yes", "yes"]
    assert [row.sounds[0].read() for row in rows] == [cell["bytes"] for cell in cells][: len(rows)]
    assert rows[1].place.endswith("[1]")


def test_hugging_face_source_that_is_not_there(tmp_path):
    assert "could not be read" in refused(f"hf:{tmp_path}/nothing@train")


@pytest.mark.parametrize("index", range(PAGE.count("```jsonl") + PAGE.count("```csv") + PAGE.count("```folder")))
def test_examples_of_the_page_can_be_read(tmp_path, index):
    kind, text = re.findall(r"```(jsonl|csv|folder)\n(.*?)```", PAGE, re.DOTALL)[index]
    for name in re.findall(r"[\w/]+\.wav", text):
        write(tmp_path / name)
    for name in re.findall(r"[\w/]+\.txt", text):
        (tmp_path / name).write_text("hello")
    if kind != "folder":
        (tmp_path / f"data.{kind}").write_text(text)
    rows = read(tmp_path)
    assert len(rows) == len(
        [line for line in text.splitlines() if not line.startswith("audio,") and ".txt" not in line]
    )
