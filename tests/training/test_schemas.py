"""Rows of every trainer's schema: what is supervised, decoded from the labels, is what that trainer supervises."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import DatasetError
from app.models.loading import LoadedModel
from app.models.prompt import PromptRenderer
from tests.training.sounds import babble, wav, write, write_lines
from training.audio_features import AudioFeatures
from training.data.fields import IDLE, REFUSED
from training.data.readers import read_rows, read_source
from training.data.rows import Row
from training.examples import make_examples

ASKED = "Transcribe."
END = "<|im_end|>"
Turns = list[tuple[str, str, bool]]  # question, answer, whether the answer is learned


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "ab":
        write(tmp_path / "clips" / f"{name}.wav")
    return tmp_path


def read(folder: Path, *rows: Any, **options: Any) -> list[Row]:
    return read_rows(str(write_lines(folder / "data.jsonl", rows)), default_prompt=ASKED, **options)


def refused(folder: Path, row: Any, **options: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        read(folder, {"audio": "clips/a.wav", "text": "good"}, row, **options)
    assert len(caught.value.problems) == 1
    assert "data.jsonl:2: " in str(caught.value)
    return str(caught.value)


def said(row: Row) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in row.turns]


# Writers: a conversation, whose first question is about the recording, as each trainer's documents write it.
def _messages(turns: Turns, system: str, mark: Callable[[bool], dict[str, Any]]) -> dict[str, Any]:
    spoken = [{"role": "system", "content": system}] if system else []
    for question, answer, learned in turns:
        spoken += [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **mark(learned)}]
    return {"messages": spoken, "audios": ["clips/a.wav"]}


def ms_swift(turns: Turns, system: str) -> dict[str, Any]:
    return _messages(turns, system, lambda learned: {"loss": learned})


def openai(turns: Turns, system: str) -> dict[str, Any]:
    row = _messages(turns, system, lambda learned: {"weight": int(learned)})
    del row["audios"]
    for message in row["messages"]:
        if message["role"] == "user" and "<audio>" in message["content"]:
            before, after = message["content"].split("<audio>")
            data = base64.b64encode(wav(babble(0.3))).decode()
            message["content"] = [{"type": "text", "text": text} for text in (before,) if text]
            message["content"] += [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}]
            message["content"] += [{"type": "text", "text": text} for text in (after,) if text]
    return {**row, "parallel_tool_calls": False, "tools": []}


def trl(turns: Turns, system: str) -> dict[str, Any]:
    """Prompt and completion: whatever the marks, the last answer alone is learned."""
    spoken = _messages(turns, system, lambda _: {})["messages"]
    return {"prompt": spoken[:-1], "completion": spoken[-1:], "audio": "clips/a.wav"}


def sharegpt(turns: Turns, system: str) -> dict[str, Any]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    spoken = _messages(turns, "", lambda _: {})["messages"]
    said = [{"from": names[one["role"]], "value": one["content"]} for one in spoken]
    return {"conversations": said, "system": system, "tools": "", "audios": ["clips/a.wav"]}


def pairs(turns: Turns, system: str) -> dict[str, Any]:
    said = [{"human": question, "assistant": answer} for question, answer, _ in turns]
    return {"system": system, "conversation": said, "audios": ["clips/a.wav"]}


def alpaca(turns: Turns, system: str) -> dict[str, Any]:
    question, answer, _ = turns[-1]
    instruction, _, more = question.partition("\n")
    history = [[asked, answered] for asked, answered, _ in turns[:-1]]
    row = {"instruction": instruction, "input": more, "output": answer, "system": system, "audios": ["clips/a.wav"]}
    return row | {"history": history}


def query_response(turns: Turns, system: str) -> dict[str, Any]:
    question, answer, _ = turns[-1]
    history = [[asked, answered] for asked, answered, _ in turns[:-1]]
    return {"query": question, "response": answer, "history": history, "system": system, "audios": ["clips/a.wav"]}


MARKED = (ms_swift, openai)
ALL_LEARNED = (sharegpt, pairs, alpaca, query_response)

words = st.text("abcdefg äß你好,.!?'\"", min_size=1, max_size=12).filter(lambda text: text.strip() == text)
lines = st.lists(words, min_size=1, max_size=2).map("\n".join)


@st.composite
def conversations(draw: st.DrawFn) -> Turns:
    turns = [(draw(lines), draw(words), draw(st.booleans())) for _ in range(draw(st.integers(1, 3)))]
    place = draw(st.integers(0, len(turns) - 1))
    question, answer, learned = turns[place]
    before, after = draw(st.sampled_from([("", question), (question, "")]))
    turns[place] = (f"{before}<audio>{after}", answer, learned)
    return turns


def supervised(row: Row, loaded: LoadedModel, audio_features: AudioFeatures) -> str:
    (example,) = make_examples([row], audio_features, PromptRenderer(loaded.processor))
    return str(loaded.processor.tokenizer.decode([example.ids[place] for place in example.labels]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=conversations(), system=st.just("") | words, writer=st.sampled_from([*MARKED, *ALL_LEARNED, trl]))
def test_what_is_supervised_is_what_its_trainer_supervises(
    folder: Path,
    fresh: LoadedModel,
    audio_features: AudioFeatures,
    turns: Turns,
    system: str,
    writer: Callable[..., dict[str, Any]],
) -> None:
    learned = [mark for _, _, mark in turns]
    if writer in ALL_LEARNED:
        learned = [True] * len(turns)
    elif writer is trl:
        learned = [False] * (len(turns) - 1) + [True]
    row = writer(turns, system)
    if not any(learned):
        assert "marked as not to be learned" in refused(folder, row)
        return
    (found,) = read(folder, row)
    wanted = "".join(f"{answer}{END}" for (_, answer, _), mark in zip(turns, learned, strict=True) if mark)
    assert supervised(found, fresh, audio_features) == wanted
    last = max(place for place, mark in enumerate(learned) if mark)
    spoken = [("system", system)] if system else []
    for question, answer, _ in turns[: last + 1]:
        spoken += [("user", question), ("assistant", answer)]
    assert said(found) == spoken
    assert len(found.sounds) == sum("<audio>" in text for role, text in spoken if role == "user")


def test_alpacas_two_halves_are_joined_as_its_trainers_join_them(folder: Path) -> None:
    rows = [
        {"instruction": "Look.", "input": "<audio>Who?", "output": "Ann", "audios": ["clips/a.wav"]},
        {"instruction": "Who?", "input": "", "output": "Ann", "audio": "clips/a.wav"},
        {"instruction": "", "input": "Who?", "output": "Ann", "audio": "clips/a.wav"},
        {"input": "Who?", "output": "Ann", "audio": "clips/a.wav"},
    ]
    asked = [row.turns[0].text for row in read(folder, *rows)]
    assert asked == ["Look.\n<audio>Who?", "<audio>Who?", "<audio>Who?", "<audio>Who?"]


REFUSALS = {
    "images is filled": {"images": ["a.png"]},
    "tools is filled": {"tools": [{"type": "function"}]},
    "rejected_response is filled": {"rejected_response": "no"},
    "chosen is filled": {"chosen": "yes", "rejected": "no"},
    "segments is filled": {"segments": [{"start": 0, "end": 1, "text": "x"}]},
    "kto_tag is False": {"kto_tag": False},
    "label is false": {"label": False},
    "label is false, KTO": {"label": "False"},
    "weight is 0": {"weight": 0},
    "weight is 0.5": {"weight": 0.5},
    "loss is False": {"loss": False},
    "train_on_prompt is True": {"train_on_prompt": True},
    "mask_history is True": {"mask_history": True},
    "channel is 1": {"channel": 1},
    "input_ids is filled": {"input_ids": [1, 2]},
    "text and answer are both filled": {"answer": "else"},
    "response and text are both filled": {"response": "else"},
    "audio and file_name are both filled": {"file_name": "clips/b.wav"},
    "query and input are both filled": {"query": "What?", "input": "Who?"},
    "prompt and question are both filled": {"prompt": "What?", "question": "Who?"},
    "history must be a list of pairs": {"history": [["one"]]},
    "no turn holds <audio>": {"history": [["one", "two"]]},
    "messages and text are both filled": {
        "messages": [{"role": "user", "content": "<audio>"}, {"role": "assistant", "content": "x"}]
    },
    "holds <image>": {"prompt": "<image>Who?"},
    "names the field 'text' twice": {"Text ": "else"},
}


@pytest.mark.parametrize("words", REFUSALS)
def test_a_meaning_that_would_be_lost_is_refused_by_name_and_line(folder: Path, words: str) -> None:
    told = refused(folder, {"audio": "clips/a.wav", "text": "good", **REFUSALS[words]})
    assert " ".join(words.replace(", KTO", "").split()) in told


def turn(**more: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": "<audio>?"}, {"role": "assistant", "content": "x", **more}]
    return {"messages": said, "audio": "clips/a.wav"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (turn(loss=0.5), "a turn's loss must be true or false"),
        (turn(weight=2), "a turn's weight must be true or false"),
        (turn(loss=True, weight=0), "say opposite things"),
        (turn(loss=False), "all its answers are marked as not to be learned"),
        (turn(tool_calls=[{"id": 1}]), "a turn's tool_calls is filled"),
        (turn(reasoning_content="hm"), "a turn's reasoning_content is filled"),
        (
            {**turn(), "system": "one", "messages": [{"role": "system", "content": "two"}, *turn()["messages"]]},
            "system",
        ),
        ({"conversations": [{"from": "human", "value": "<audio>"}, {"from": "function_call", "value": "{}"}]}, "role"),
        ({"conversation": [{"human": "<audio>", "tool": "x"}], "audio": "clips/a.wav"}, "the role 'tool'"),
        ({"prompt": "x", "completion": [{"role": "assistant", "content": "y"}], "audio": "clips/a.wav"}, "both be"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, {"role": "assistant", "content": "x"}]},
            "neither text nor audio: 'image_url'",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "§"}}]},
                    {"role": "assistant", "content": "x"},
                ]
            },
            "no base64",
        ),
    ],
)
def test_marks_and_turns_that_cannot_be_kept_are_refused(folder: Path, row: dict[str, Any], words: str) -> None:
    assert words in refused(folder, row)


def test_marks_that_change_nothing_are_taken(folder: Path) -> None:
    usual = {"weight": 1, "loss": True, "kto_tag": True, "label": True, "train_on_prompt": False, "images": []}
    (row,) = read(folder, {"audio": "clips/a.wav", "text": "x", **usual, "rejected_response": None, "tools": ""})
    assert said(row) == [("user", "<audio>Transcribe."), ("assistant", "x")]
    assert row.label is None


def test_a_boolean_is_a_class_for_a_head(folder: Path) -> None:
    rows = read(folder, *({"audio": "clips/a.wav", "label": mark} for mark in (True, False, 0)), head=True)
    assert [row.label for row in rows] == ["True", "False", "0"]


def test_an_empty_field_is_no_field(folder: Path) -> None:
    empty = ({"response": ""}, {"response": None}, {"response": "  "}, {"answer": []}, {"path": ""}, {"question": ""})
    rows = read(folder, *({"audio": "clips/a.wav", "text": "x", **more} for more in empty))
    assert {tuple(said(row)) for row in rows} == {(("user", "<audio>Transcribe."), ("assistant", "x"))}


def test_fields_that_say_the_same_are_no_two(folder: Path) -> None:
    message = [{"role": "user", "content": "<audio>Who?"}, {"role": "assistant", "content": "Ann"}]
    rows = read(
        folder,
        {"audio": "clips/a.wav", "text": "Ann", "sentence": "Ann", "path": "a.wav"},
        {"audio": "clips/a.wav", "messages": message, "prompt": "Who?", "answer": "Ann"},
        {"audio": {"path": "clips/a.wav", "bytes": None}, "path": "elsewhere.wav", "text": "Ann"},
    )
    assert [row.response for row in rows] == ["Ann"] * 3
    assert {row.sounds[0].name for row in rows} == {"clips/a.wav"}


def test_samples_in_a_row_are_a_recording(folder: Path) -> None:
    (row,) = read(folder, {"audio": {"array": [0.0, 0.5, -0.5] * 100, "sampling_rate": 8000, "path": "x"}, "text": "x"})
    assert row.sounds[0].read()[:4] == b"RIFF"
    assert "samples" in refused(folder, {"audio": {"array": [1, "x"], "sampling_rate": 8000}, "text": "x"})


def test_every_field_is_used_or_reported(folder: Path) -> None:
    rows = [
        {"audio": "clips/a.wav", "text": "x", "id": 1, "Speaker ID": "p1", "emotion": "sad"},
        {"audio": "clips/a.wav", "text": "x", "emotion": "glad", "mood": None, "locale": "de"},
        {**turn(name="Bot", mood="glad")},
    ]
    notes = read_source(str(write_lines(folder / "data.jsonl", rows)), default_prompt=ASKED).notes
    assert notes.idle == {"id", "speaker_id", "locale"}
    assert dict(notes.unknown) == {"emotion": 2, "messages.mood": 1}
    assert not IDLE & REFUSED.keys()


def info(folder: Path, **entry: Any) -> None:
    (folder / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json", **entry}}))


def test_columns_of_llama_factorys_list(folder: Path) -> None:
    (folder / "rows.json").write_text(
        json.dumps([{"q": "Look.", "more": "<audio>Who?", "a": "Ann", "clip": ["clips/a.wav"], "past": [["1", "2"]]}])
    )
    columns = {"prompt": "q", "query": "more", "response": "a", "audios": "clip", "history": "past"}
    info(folder, columns=columns)
    for source in (folder, folder / "rows.json"):
        (row,) = read_rows(str(source), default_prompt=ASKED)
        assert said(row) == [("user", "1"), ("assistant", "2"), ("user", "Look.\n<audio>Who?"), ("assistant", "Ann")]
    turns = [{"who": "you", "what": "<audio>Who?"}, {"who": "me", "what": "Ann"}]
    (folder / "rows.json").write_text(json.dumps([{"talk": turns, "audios": ["clips/a.wav"]}]))
    tags = {"role_tag": "who", "content_tag": "what", "user_tag": "you", "assistant_tag": "me"}
    info(folder, formatting="sharegpt", columns={"messages": "talk", "audios": "audios"}, tags=tags)
    (row,) = read_rows(str(folder), default_prompt=ASKED)
    assert said(row) == [("user", "<audio>Who?"), ("assistant", "Ann")]
    for wrong in ({"ranking": True}, {"num_samples": 5}, {"formatting": "other"}, {"columns": {"reward": "x"}}):
        info(folder, **wrong)
        with pytest.raises(DatasetError, match=re.escape(f"dataset_info.json gives 'mine' {next(iter(wrong))}")[:30]):
            read_rows(str(folder), default_prompt=ASKED)


def test_a_key_that_stands_twice_in_one_object_is_refused(folder: Path) -> None:
    source = write_lines(folder / "data.jsonl", ['{"audio": "clips/a.wav", "text": "one", "text": "two"}'])
    with pytest.raises(DatasetError, match=r"data.jsonl:1: .*'text' twice"):
        read_rows(str(source), default_prompt=ASKED)
