"""The kind of a file, from its first bytes, where it differs from its name."""

import re

SAMPLE = 4096  # bytes that are enough to tell
_MAGIC = (
    (b"PK\x03\x04", "a zip archive (what torch.save and PyTorch's .bin files are, too)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"GGUF", "a GGUF file for llama.cpp"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"RIFF", "a recording"),
    (b"fLaC", "a recording"),
    (b"SQLite format", "an SQLite database"),
    (b"\x7fELF", "a program"),
)
_LFS = b"version https://git-lfs"
_PAGE = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*(?:<!doctype\s+html|<html|<head|<\?xml|<body)", re.IGNORECASE)
_ERRORS = (
    b"entry not found",
    b"repository not found",
    b"not found",
    b"access denied",
    b"accessdenied",
    b"unauthorized",
)


def kind_of(head: bytes, size: int) -> str | None:
    """The kind in words, with the way to the right file, from the first `SAMPLE` bytes; None for nothing known."""
    if size == 0:
        return "empty: the copy or download wrote nothing; fetch it again"
    if head.startswith(_LFS):
        return "a Git LFS pointer, not the file itself; run `git lfs pull` and send it again"
    if _PAGE.match(head):
        return "a web page: the download got a page (a login or an error) in place of the file; fetch it again"
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "a pickle, which can run code and is not read; save the adapter as safetensors"
    if not head.strip(b"\0"):
        return "zeros alone: the copy was cut off or the disk lost it; fetch it again"
    if len(head) > 262 and head[257:262] == b"ustar":
        return "a tar archive"
    if size < SAMPLE and any(head.strip().lower().startswith(words) for words in _ERRORS):
        return f"an error message ({head.strip()[:60].decode(errors='replace')!r}) in place of the file; fetch it again"
    return None
