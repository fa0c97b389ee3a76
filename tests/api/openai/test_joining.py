"""Texts of windows that overlap, or stand side by side, as one text; and texts as subtitles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.openai.joining import join, seam
from app.api.openai.subtitles import srt, vtt
from app.api.schemas.openai.transcription_response import Segment
from tests.audio.speech import HUMAN

WORDS = [word for line in (HUMAN / "transcripts.tsv").read_text().splitlines()[6:11] for word in line.split()[2:]]
WORDS = sorted(set(WORDS))
CHARACTERS = list("天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜")


def met(before: str, after: str) -> str:
    found = seam(before, after)
    return join([before[: found.end] + found.marks, after[found.start :]])


@st.composite
def overlapping(draw: st.DrawFn, words: list[str], least: int) -> tuple[list[str], int, int]:
    """Different words, and of which the first text has those before ``end``, the second those from ``start`` on."""
    said = draw(st.permutations(words))
    end = draw(st.integers(least + 1, len(said) - 1))
    return said, end, draw(st.integers(max(0, end - 9), end - least))


@given(overlapping(WORDS, 4), st.integers(0, 3), st.integers(0, 3), st.sampled_from(["", ".", "…", ","]))
def test_no_word_stands_twice_or_is_lost(drawn: tuple[list[str], int, int], more: int, less: int, mark: str) -> None:
    """Four words and more in 2 s. The first text may end in a fragment of the next word, the second begin with one."""
    said, end, start = drawn
    before = said[:end] + ([said[end][:more]] if 0 < more < len(said[end]) else [])
    after = ([said[start - 1][-less:]] if start and 0 < less < len(said[start - 1]) else []) + said[start:]
    assert met(" ".join(before) + mark, " ".join(after)).split() == said


@given(overlapping(CHARACTERS, 3))
def test_nor_in_a_script_without_spaces(drawn: tuple[list[str], int, int]) -> None:
    said, end, start = drawn
    assert met("".join(said[:end]), "".join(said[start:])) == "".join(said)


@given(st.permutations(WORDS), st.integers(0, len(WORDS)))
def test_without_words_in_common_all_is_kept(said: list[str], place: int) -> None:
    assert met(" ".join(said[:place]), " ".join(said[place:])).split() == said


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        (
            "We walked ten meters and th",
            "ward ten metres and then we stopped.",
            "We walked ten meters and then we stopped.",
        ),
        ("He came home.", "came home, and then he slept.", "He came home, and then he slept."),
        ("Go forward.", "Forward ten meters", "Go forward ten meters"),
        ("It costs 42 euros", "42 euros a day", "It costs 42 euros a day"),
        ("the same the same the same", "the same the same again", "the same the same the same again"),
        ("今天天气很", "天气很好。", "今天天气很好。"),
        ("東京タワーに", "タワーに行きました", "東京タワーに行きました"),
        ("오늘 날씨가 정말", "날씨가 정말 좋아요", "오늘 날씨가 정말 좋아요"),
        ("Straße und Häuser", "STRASSE UND HÄUSER dort", "Straße und Häuser dort"),
        ("", "all of it", "all of it"),
        ("all of it", "", "all of it"),
        ("all of it", "of it", "all of it"),
        ("one two three", "the", "one two three the"),
    ],
)
def test_where_texts_meet(before: str, after: str, wanted: str) -> None:
    assert met(before, after) == wanted


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        ([" one ", "", "two\n"], "one two"),
        (["今天天气很好。", "我们去公园。"], "今天天气很好。我们去公园。"),
        (["今日は", "いい天気"], "今日はいい天気"),
        (["안녕하세요", "여러분"], "안녕하세요 여러분"),
        (["他说：", "hello"], "他说：hello"),
        (["我用", "Python"], "我用 Python"),
        (["Python", "很好"], "Python 很好"),
    ],
)
def test_join(texts: list[str], wanted: str) -> None:
    assert join(texts) == wanted


def segment(start: float, end: float, text: str) -> Segment:
    return Segment(
        id=0, seek=0, start=start, end=end, text=text, tokens=[], temperature=0, avg_logprob=0, compression_ratio=1
    )


HARD = [
    segment(0, 2.7864, " go forward\n\nten meters "),
    segment(59.9996, 61.25, "a --> b <i>&amp;</i>\x00\u2028"),
    segment(61.25, 62, "  "),
    segment(359_999.5, 360_000.0, "一百小时"),
]


def test_srt() -> None:
    assert srt(HARD) == (
        "1\n00:00:00,000 --> 00:00:02,786\ngo forward ten meters\n\n"
        "2\n00:01:00,000 --> 00:01:01,250\na -> b <i>&amp;</i>\n\n"
        "3\n99:59:59,500 --> 100:00:00,000\n一百小时\n"
    )
    assert srt([]) == ""


def test_vtt() -> None:
    assert vtt(HARD) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.786\ngo forward ten meters\n\n"
        "00:01:00.000 --> 00:01:01.250\na --&gt; b &lt;i&gt;&amp;amp;&lt;/i&gt;\n\n"
        "99:59:59.500 --> 100:00:00.000\n一百小时\n"
    )
    assert vtt([]) == "WEBVTT\n"


@given(st.lists(st.tuples(st.floats(0, 1e6), st.text())))
def test_no_text_breaks_a_cue(drawn: list[tuple[float, str]]) -> None:
    segments = [segment(start, start + 1, text) for start, text in drawn]
    for text in (srt(segments), vtt(segments)):
        times = [line for line in text.split("\n") if "-->" in line]
        blocks = [block for block in text.strip("\n").split("\n\n") if block not in ("", "WEBVTT")]
        assert len(times) == len(blocks)
        assert all(len(block.split("\n")) in (2, 3) for block in blocks)
