"""Damaged and hostile files: a clear 4xx each, no answer slower than 10 s, memory that stays."""

import gc
import io
import json
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import OvertoneError
from app.registry.adapter_files.validate import validate
from app.registry.archive import unpack
from app.registry.archive_reader import ArchiveLimits
from tests.api.conftest import wav

SLOWEST_S = 60.0
ROOM_MB = 300  # for what libraries allocate once
fuzzed = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def cut(data: bytes, start: int, new: bytes) -> bytes:
    """Some bytes written over others."""
    return data[:start] + new + data[start + len(new) :]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)
tensor_entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "F4", "nothing"]) | json_values,
        "shape": st.lists(st.integers(-2, 2**64), max_size=4) | json_values,
        "data_offsets": st.lists(st.integers(-2, 2**64), min_size=2, max_size=2) | json_values,
    },
)
headers = st.dictionaries(
    st.sampled_from(["__metadata__", "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"])
    | st.text(max_size=40),
    tensor_entries | json_values,
    max_size=4,
)


@st.composite
def safetensors(draw: st.DrawFn) -> bytes:
    """A header that says anything, with a length that may be wrong, before some bytes."""
    header = json.dumps(draw(headers)).encode()
    length = draw(st.just(len(header)) | st.sampled_from([0, 1, len(header) + 1, 2**31, 2**63, 2**64 - 1]))
    return struct.pack("<Q", length) + header + draw(st.binary(max_size=64))


@pytest.fixture
def adapter(folders: dict[str, Path], tmp_path: Path) -> Path:
    for file in folders["qv"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@fuzzed
@given(data=safetensors())
def test_safetensors_headers(adapter: Path, loaded: object, data: bytes) -> None:
    (adapter / WEIGHTS).write_bytes(data)
    report = validate(adapter, loaded.spec, max_rank=64)  # type: ignore[attr-defined]
    assert report.problems
    assert str(adapter) not in " ".join(report.problems)


@fuzzed
@given(at=st.integers(0, 3000), new=st.binary(min_size=1, max_size=8))
def test_weights_with_other_bytes(adapter: Path, folders: dict[str, Path], loaded: object, at: int, new: bytes) -> None:
    (adapter / WEIGHTS).write_bytes(cut((folders["qv"] / WEIGHTS).read_bytes(), at, new))
    validate(adapter, loaded.spec, max_rank=64)  # type: ignore[attr-defined]


@fuzzed
@given(config=json_values | st.dictionaries(st.sampled_from(["peft_type", "r", "lora_alpha", "rank_pattern", "bias",
       "target_modules", "alpha_pattern", "modules_to_save", "init_lora_weights"]), json_values))  # fmt: skip
def test_configurations(adapter: Path, loaded: object, config: object) -> None:
    (adapter / CONFIG).write_text(json.dumps(config))
    validate(adapter, loaded.spec, max_rank=64)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [CONFIG, "manifest.json", "head.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 100_000, '"\\ud800"', "\x00", ""])
def test_json_that_overwhelms_parsers(adapter: Path, loaded: object, name: str, text: str) -> None:
    (adapter / name).write_text(text)
    report = validate(adapter, loaded.spec, max_rank=64)  # type: ignore[attr-defined]
    assert report.problems
    assert str(adapter) not in " ".join(report.problems)


entries = st.lists(
    st.tuples(
        st.sampled_from([CONFIG, WEIGHTS, "../x", "/x", "a/../../x", "\\..\\x", "C:x", "x" * 300, "manifest.json"])
        | st.text(min_size=1, max_size=30),
        st.binary(max_size=40),
        st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]),
    ),
    max_size=5,
)


@fuzzed
@given(entries=entries, at=st.integers(0, 2000), new=st.binary(max_size=6), zipped=st.booleans())
def test_archives(tmp_path: Path, entries: list, at: int, new: bytes, zipped: bool) -> None:
    target = tmp_path / "in" / "deeper"
    target.mkdir(parents=True, exist_ok=True)
    data = cut(_zip(entries) if zipped else _tar(entries), at, new)
    refusal = None
    try:
        unpack(io.BytesIO(data), "a.zip", target, ArchiveLimits(1 << 20))
    except OvertoneError as error:
        refusal = error
    assert refusal is None or (refusal.status in (413, 422) and str(tmp_path) not in str(refusal))
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"deeper"}


def _zip(entries: list) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.filterwarnings("ignore", "Duplicate name")
        for number, (name, data, kind) in enumerate(entries):
            info = zipfile.ZipInfo(name.replace("\x00", "") or str(number))
            info.external_attr = (0o120777 if kind == tarfile.SYMTYPE else 0o100644) << 16
            archive.writestr(info, data)
    return stream.getvalue()


def _tar(entries: list) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", errors="surrogateescape") as archive:
        for name, data, kind in entries:
            info = tarfile.TarInfo(name.encode(errors="replace").decode())
            info.type, info.linkname = kind, "/etc/passwd"
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


BOUNDARY = b"xyz"
parts = st.lists(
    st.sampled_from([
        b'--xyz\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nhi\r\n',
        b'--xyz\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\n\r\n' + wav()[:200] + b"\r\n",
        b'--xyz\r\nContent-Disposition: form-data; name="max_new_tokens"\r\n\r\n2\r\n',
        b'--xyz\r\nContent-Disposition: form-data; name="' + b"n" * 9000 + b'"\r\n\r\nx\r\n',
        b'--xyz\r\nContent-Disposition: form-data; name="audio"; filename*=UTF-8\'\'%00%2e%2e\r\n\r\nx\r\n',
        b"--xyz\r\n" + b"H: v\r\n" * 2000 + b"\r\nx\r\n",
        b"--xyz\r\n\r\nx\r\n", b"--xyz--", b"--xyz--\r\n", b"\r\n", b"--", b"\x00" * 100,
    ])
    | st.binary(max_size=60),
    max_size=8,
)  # fmt: skip


@pytest.fixture
def _collected() -> Iterator[None]:
    yield
    gc.collect()


# the parser of a body that ends within a file leaves that file to the garbage collector
@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile.SpooledTemporaryFile:ResourceWarning")
@pytest.mark.usefixtures("_collected")
@settings(fuzzed, max_examples=60)
@given(parts=parts, path=st.sampled_from(["/generate", "/compare", "/classify", "/adapters", "/training/jobs"]))
def test_multipart(server: str, parts: list[bytes], path: str) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=xyz"}
    begun = time.monotonic()
    response = httpx.post(server + path, content=b"".join(parts), headers=kind, timeout=SLOWEST_S)
    assert response.status_code < 500, response.text
    assert time.monotonic() - begun < SLOWEST_S


DECODE = """
import random, sys, time
from pathlib import Path
from app.audio.decode import Limits, decode
from app.errors import OvertoneError
limits, drawn = Limits(60, 8 << 20), random.Random(1)
seeds = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
for data in seeds:
    decode(data, rate=16000, limits=limits)
def peak():  # ru_maxrss would also count the process that this one was forked from
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
before = peak()
slowest = 0
for _ in range(int(sys.argv[2])):
    data = bytearray(drawn.choice(seeds))
    for _ in range(drawn.randint(1, 12)):
        at = min(int(drawn.expovariate(1 / 300)), len(data) - 1)
        data[at : at + 4] = drawn.choice([drawn.randbytes(4), bytes(4), b"\\xff" * 4, b"\\x7f\\xff\\xff\\xff"])
    if drawn.random() < 0.3:
        del data[drawn.randrange(1, len(data)) :]
    begun = time.monotonic()
    try:
        decode(bytes(data), rate=16000, limits=limits)
    except OvertoneError as error:
        assert error.status in (413, 415), error
    slowest = max(slowest, time.monotonic() - begun)
print(slowest, peak() - before)
"""


@pytest.fixture
def seeds(tmp_path: Path) -> Iterator[Path]:
    """A small whole file of every kind."""
    from tests.audio.makers import by_av, by_soundfile, tone
    from tests.audio.test_decode import PYAV, SOUNDFILE

    for container, codec in SOUNDFILE:
        (tmp_path / f"{container}-{codec}").write_bytes(by_soundfile(tone(0.5), 48_000, container, codec))
    for container, codec in PYAV:
        (tmp_path / f"{container}-{codec}").write_bytes(by_av(tone(0.5), container, codec))
    return tmp_path


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak is read from /proc")
def test_decoding_damaged_recordings_takes_neither_time_nor_memory(seeds: Path) -> None:
    command = [sys.executable, "-c", DECODE, str(seeds), "1500"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    slowest, megabytes = map(float, done.stdout.split())
    assert slowest < SLOWEST_S
    assert megabytes < ROOM_MB
