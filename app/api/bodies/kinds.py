"""The kind of a body, by its first bytes and its headers, for errors that name it."""

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers

from app.errors import MalformedBody

RECORDINGS = (
    (b"fLaC", "FLAC"),
    (b"OggS", "Ogg"),
    (b"ID3", "MP3"),
    (b"\xff\xfb", "MP3"),
    (b"\xff\xf3", "MP3"),
    (b"\xff\xf1", "AAC"),
    (b"\x1aE\xdf\xa3", "WebM or Matroska"),
    (b"FORM", "AIFF"),
    (b"caff", "CAF"),
)
OTHERS = (
    (b"\x1f\x8b", "compressed by gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"PK\x03\x04", "a zip archive"),
    (b"%PDF", "a PDF"),
    (b"--", "a multipart form"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)
CHARSETS = frozenset({"", "utf-8", "utf8", "us-ascii"})
JSON_WAY = "Send Content-Type: application/json, as `curl --json` does."


def recording(head: bytes) -> str | None:
    """The name of the container that begins with ``head``, if it is one for audio."""
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "WAV"
    if head[4:8] == b"ftyp":
        return "MP4 or M4A"
    return next((name for magic, name in RECORDINGS if head.startswith(magic)), None)


def recognised(head: bytes) -> str | None:
    """The kind of data that begins with ``head``, in words that follow "is"; None for an unknown kind."""
    if name := recording(head):
        return f"a recording ({name})"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((words for magic, words in OTHERS if text.startswith(magic)), None)


def media_type(headers: Headers) -> tuple[str, dict[str, str]]:
    """The Content-Type in lower case, and its parameters."""
    kind, parameters = parse_options_header(headers.get("content-type", ""))
    return kind.decode("latin-1"), {
        name.decode("latin-1"): value.decode("latin-1") for name, value in parameters.items()
    }


def check_headers(headers: Headers) -> None:
    """Raises MalformedBody for a body in an encoding that is not read here."""
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise MalformedBody(
            f"The header Content-Encoding says {encoding[:40]!r}, and this server unpacks no bodies: send the body as "
            "it is, without that header. Recordings are smaller as flac or opus."
        )
    charset = media_type(headers)[1].get("charset", "").lower()
    if charset not in CHARSETS:
        raise MalformedBody(f"The header Content-Type says charset={charset[:40]}; send UTF-8.")


def labelled(kind: str) -> str:
    """The name of a Content-Type in an error."""
    return f"The header Content-Type says {kind[:80]!r}" if kind else "The request has no Content-Type"
