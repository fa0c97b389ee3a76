"""Transcriptions as subtitles: SubRip and WebVTT."""

from collections.abc import Sequence

from app.api.schemas.openai.transcription_response import Segment


def srt(segments: Sequence[Segment]) -> str:
    """SubRip: numbered cues; a text cannot end its cue or look like a time line."""
    cues = [
        f"{number}\n{_time(one.start, ',')} --> {_time(one.end, ',')}\n{_line(one.text).replace('-->', '->')}\n"
        for number, one in enumerate(_spoken(segments), 1)
    ]
    return "\n".join(cues)


def vtt(segments: Sequence[Segment]) -> str:
    """WebVTT: cues whose text holds no markup."""
    cues = [
        f"{_time(one.start, '.')} --> {_time(one.end, '.')}\n{_escaped(_line(one.text))}\n" for one in _spoken(segments)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _spoken(segments: Sequence[Segment]) -> list[Segment]:
    return [segment for segment in segments if _line(segment.text)]


def _line(text: str) -> str:
    """A text in one line, of printable characters."""
    return " ".join("".join(one if one.isprintable() or one in "\u200c\u200d" else " " for one in text).split())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
