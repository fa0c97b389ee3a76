"""Tables of any writer and dialect give the rows that were written, or an error that names the header."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import DatasetError
from tests.training.sounds import write
from training.data.readers import read_rows, read_source

ASKED = "Transcribe."
MARKS = {
    "utf-8": b"",
    "utf-8-sig": b"",
    "utf-16": b"",
    "utf-16-le": b"\xff\xfe",
    "utf-16-be": b"\xfe\xff",
    "utf-32": b"",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one", "two", "three"):
        write(tmp_path / "clips" / f"{name}.wav")
    return tmp_path


def read(source: Path) -> list[tuple[str, str]]:
    rows = read_rows(str(source), default_prompt=ASKED)
    return [(row.sounds[0].name, row.response) for row in rows]


def refused(source: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        read(source)
    return str(caught.value)


names = st.sampled_from(["clips/one.wav", "clips/two.wav", "clips/three.wav"])
texts = st.text('abz äß你,;|\t"\n .', min_size=1, max_size=14).filter(lambda text: text.strip() == text)
flat = st.text("abz äß你,;|\"'. ", min_size=1, max_size=14).filter(lambda text: text.strip() == text)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(names, texts, st.floats(0, 99).map(lambda number: round(number, 2))), min_size=1, max_size=6
    ),
    separator=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(list(MARKS)),
    suffix=st.sampled_from([".csv", ".tsv"]),
)
def test_what_a_writer_of_csv_wrote_is_read(
    folder: Path, rows: list[Any], separator: str, quoting: Any, end: str, encoding: str, suffix: str
) -> None:
    memory = io.StringIO(newline="")
    writer = csv.writer(memory, delimiter=separator, quoting=quoting, lineterminator=end)
    writer.writerow(["audio", "text", "snr"])
    writer.writerows(rows)
    (folder / f"data{suffix}").write_bytes(MARKS[encoding] + memory.getvalue().encode(encoding))
    assert read(folder / f"data{suffix}") == [(name, text) for name, text, _ in rows]


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(names, flat), min_size=2, max_size=8),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
)
def test_a_table_that_never_quotes_keeps_its_marks(folder: Path, rows: list[Any], end: str, last: bool) -> None:
    """Common Voice's TSV, as `pandas` wrote it with quoting off: marks stand where the sentences have them."""
    rows = [*rows, ("clips/one.wav", '"It is plain')]  # a mark that no writer of quoted cells leaves
    lines = ["\t".join(row) for row in (("path", "sentence"), *rows)]
    (folder / "data.tsv").write_text(end.join(lines) + (end if last else ""), newline="")
    assert read(folder / "data.tsv") == rows


def test_marks_at_the_ends_of_sentences(folder: Path) -> None:
    rows = [("one.wav", '"Number one'), ("two.wav", "and two"), ("three.wav", 'three"'), ("one.wav", '"All of it."')]
    table = "\n".join("\t".join(row) for row in (("path", "sentence"), *rows))
    (folder / "data.tsv").write_text(table)
    assert read(folder / "data.tsv") == rows
    (folder / "comma.csv").write_text(table.replace("\t", ","))
    assert read(folder / "comma.csv") == rows
    (folder / "whole.tsv").write_text('path\tsentence\none.wav\t"Yes."\ntwo.wav\tNo.\n')
    assert read(folder / "whole.tsv") == [("one.wav", '"Yes."'), ("two.wav", "No.")]
    (folder / "short.tsv").write_text('path\tsentence\none.wav\t"Yes\ntwo.wav\nthree.wav\tNo"\n')
    assert "short.tsv:3: has 1 fields under a header of 2 (path, sentence)" in refused(folder / "short.tsv")
    (folder / "quoted.csv").write_text('audio,text\nclips/one.wav,"ten, of\nclubs"\nclips/two.wav,5" pipe\n')
    assert read(folder / "quoted.csv") == [("clips/one.wav", "ten, of\nclubs"), ("clips/two.wav", '5" pipe')]


@pytest.mark.parametrize(
    "header",
    [
        "audio,text",
        "Audio,Text",
        " audio , text ",
        "audio, text",
        "AUDIO;TEXT",
        "Audio|Text",
        "audio\ttext",
        "file name;text",
    ],
)
def test_headers_as_spreadsheets_write_them(folder: Path, header: str) -> None:
    separator = next(mark for mark in ",;|\t" if mark in header)
    blank = " " if header == "audio, text" else ""
    (folder / "data.csv").write_text(f"{header}\nclips/one.wav{separator}{blank}number one\n")
    assert read(folder / "data.csv") == [("clips/one.wav", "number one")]


def test_a_decimal_comma_and_empty_lines(folder: Path) -> None:
    (folder / "data.csv").write_text("audio;start;end;text\nclips/one.wav;0,05;0,3;one\n;;;\n\nclips/two.wav;;;two\n")
    source = read_source(str(folder / "data.csv"), default_prompt=ASKED)
    assert [(row.sounds[0].start, row.sounds[0].end) for row in source.rows] == [(0.05, 0.3), (None, None)]
    assert source.notes.passed_over == [("data.csv:3", "an empty line")]


def test_what_excel_and_pandas_add(folder: Path) -> None:
    (folder / "excel.csv").write_text("sep=;\r\naudio;text\r\nclips/one.wav;one\r\n", newline="")
    assert read(folder / "excel.csv") == [("clips/one.wav", "one")]
    (folder / "pandas.csv").write_text(",audio,text,Unnamed: 0\n0,clips/one.wav,one,0\n1,clips/two.wav,two,1\n")
    source = read_source(str(folder / "pandas.csv"), default_prompt=ASKED)
    assert [row.place for row in source.rows] == ["pandas.csv:2", "pandas.csv:3"]
    assert not source.notes.unknown


def test_tables_without_a_header(folder: Path) -> None:
    (folder / "pairs.csv").write_text("clips/one.wav,one\nclips/two.wav,two\n")
    assert read(folder / "pairs.csv") == [("clips/one.wav", "one"), ("clips/two.wav", "two")]
    (folder / "turned.tsv").write_text("one\tclips/one.wav\ntwo\tclips/two.wav\n")
    assert read(folder / "turned.tsv") == [("clips/one.wav", "one"), ("clips/two.wav", "two")]
    (folder / "lj.csv").write_text('one|Dr. "A" has 2|Doctor "A" has two\ntwo|"b|"b\n')
    source = read_source(str(folder / "lj.csv"), default_prompt=ASKED)
    assert [row.response for row in source.rows] == ['Doctor "A" has two', '"b']
    assert [row.sounds[0].path for row in source.rows] == [folder / "clips" / f"{name}.wav" for name in ("one", "two")]
    assert "LJSpeech" in source.notes.remarks[0]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("datei;satz\nclips/one.wav;eins\n", "its first line is 'datei', 'satz'"),
        ("clips/one.wav,one,1\nclips/two.wav,two,2\n", "its first line is 'clips/one.wav', 'one', '1'"),
        ("audio,satz\nclips/one.wav,eins\n", "has no answer"),
        ("audio,satz\nclips/one.wav,eins\n", "its fields are audio, satz"),
        ("id,text\n1,eins\n", "names no recording"),
        ("id,text\n1,eins\n", "its fields are id, text"),
        ("audio,text,Text\na,b,c\n", "names a column twice (text)"),
    ],
)
def test_a_table_that_cannot_be_read_is_told_its_header(folder: Path, table: str, words: str) -> None:
    (folder / "data.csv").write_text(table)
    assert words in refused(folder / "data.csv")


def test_other_encodings_are_named_and_not_guessed(folder: Path) -> None:
    for encoding, text in (("cp1252", "café"), ("gb18030", "你好吗"), ("shift_jis", "東京です")):
        (folder / "data.csv").write_bytes(f"audio,text\nclips/one.wav,{text}\n".encode(encoding))
        told = refused(folder / "data.csv")
        assert "data.csv:2: response holds broken characters" in told
        assert "save it as UTF-8" in told
    (folder / "data.csv").write_bytes("audio,text\n".encode("utf-16")[:-1])
    assert "broken UTF-16-LE text" in refused(folder / "data.csv")


def test_json_in_other_encodings(folder: Path) -> None:
    lines = '{"audio": "clips/one.wav", "text": "äß"}\n{"audio": "clips/two.wav", "text": "你"}\n'
    for encoding in ("utf-16", "utf-8-sig"):
        (folder / "data.jsonl").write_bytes(lines.encode(encoding))
        assert [text for _, text in read(folder / "data.jsonl")] == ["äß", "你"]
        (folder / "list.json").write_bytes(f"[{','.join(lines.splitlines())}]".encode(encoding))
        assert [text for _, text in read(folder / "list.json")] == ["äß", "你"]
