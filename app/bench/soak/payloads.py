"""Payloads of a hostile tenant: damaged recordings, adapters that overflow or match slowly, archive bombs."""

import gzip
import io
import json
import random
import struct
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

from app.bench.over_http import RATE
from app.bench.soak.workload import Sound

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_EDGES = (b"\x00" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x01")
_MAGIC = (b"RIFF\xff\xff\xff\xffWAVEfmt ", b"fLaC", b"OggS", b"ID3\4", b"FORM", b"\x1aE\xdf\xa3", b"\0\0\0 ftypM4A ")


def recordings(sounds: Sequence[Sound]) -> list[bytes]:
    """Sound recordings of many containers, as the seeds of damage; one of them with eight planar channels."""
    samples = sounds[0].samples
    found = [sound.data for sound in sounds]
    for container, codec in (("AIFF", "PCM_24"), ("CAF", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")):
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, RATE, format=container, subtype=codec)
        found.append(buffer.getvalue())
    return [*found, *(_boxed(container, "7.1") for container in ("mov", "matroska", "avi"))]


def damaged(seed: bytes, drawn: random.Random) -> bytes:
    """``seed`` with bytes overwritten, mostly in its head, at times cut; or random bytes under a container's name."""
    if drawn.random() < 0.2:
        return drawn.choice(_MAGIC) + drawn.randbytes(drawn.randrange(1, 5_000))
    data = bytearray(seed)
    for _ in range(drawn.randint(1, 10)):
        place = min(int(drawn.expovariate(1 / 200)), len(data) - 1)
        data[place : place + 4] = drawn.choice([drawn.randbytes(4), *_EDGES])
    if drawn.random() < 0.3:
        del data[drawn.randrange(1, len(data)) :]
    return bytes(data)


def refused_adapters(folder: Path) -> dict[str, bytes]:
    """Archives that must not be served, by what is wrong; made of the sound adapter in ``folder``."""
    config = json.loads((folder / CONFIG).read_text())
    weights = (folder / WEIGHTS).read_bytes()
    many = [f"layer{number}" for number in range(20_000)]
    configs: dict[str, dict[str, Any]] = {
        "alpha beyond float32": {"lora_alpha": 1e300},
        "alpha NaN": {"lora_alpha": float("nan")},
        "alpha infinite": {"lora_alpha": float("inf")},
        "rank of a million": {"r": 1_000_000},
        "20,000 targets": {"target_modules": many, "use_dora": True},
        "20,000 ranks": {"rank_pattern": dict.fromkeys(many, 8)},
        "deep": {"rank_pattern": _deep(500)},
    }
    found = {what: _zip({CONFIG: json.dumps(config | change), WEIGHTS: weights}) for what, change in configs.items()}
    for what, value in (("NaN", float("nan")), ("infinite", float("inf"))):
        found[f"weights {what}"] = _zip({CONFIG: json.dumps(config), WEIGHTS: filled(weights, value)})
    scaled = json.dumps(config | {"lora_alpha": 1000 * config["r"]})
    found["weights that overflow when scaled"] = _zip({CONFIG: scaled, WEIGHTS: filled(weights, 3e38)})
    found["weights cut"] = _zip({CONFIG: json.dumps(config), WEIGHTS: weights[: len(weights) // 2]})
    found["header of another length"] = _zip({CONFIG: json.dumps(config), WEIGHTS: struct.pack("<Q", 2**62) + weights})
    return found


def patterned_adapter(folder: Path) -> bytes:
    """An adapter with a pattern whose search doubles with each of its parts; it may be served, as no layer needs it."""
    config = json.loads((folder / CONFIG).read_text())
    config["rank_pattern"] = {"(.|.|.)" * 40 + "!": 8}
    return _zip({CONFIG: json.dumps(config), WEIGHTS: (folder / WEIGHTS).read_bytes()})


def overflowing_adapter(folder: Path) -> bytes:
    """Every number of it is finite, also scaled; their products are not. It is served, and its answers fail."""
    weights = filled((folder / WEIGHTS).read_bytes(), 1e19)
    return _zip({CONFIG: (folder / CONFIG).read_text(), WEIGHTS: weights})


def bombs() -> dict[str, bytes]:
    """Small archives that unfold, by kind."""
    zeros = bytes(1 << 20)
    long_header = _tar({"path": "x" * (32 << 20)}, CONFIG, b"{}")
    return {
        "zip of zeros": _zip({WEIGHTS: zeros * 128, CONFIG: b"{}"}),
        "tar of zeros": _tar({}, WEIGHTS, zeros * 128),
        "pax header": long_header,
        "many files": _zip({f"{number}/x": b"" for number in range(60_000)}),
        "climbing": _zip({"../../../../tmp/overtone-soak-climbed": b"x", CONFIG: b"{}"}),
        "no archive": b"PK\x03\x04" + bytes(4_000),
    }


def filled(weights: bytes, value: float) -> bytes:
    """The same safetensors file with ``value`` in place of every float32."""
    start = 8 + struct.unpack("<Q", weights[:8])[0]
    count = (len(weights) - start) // 4
    return weights[:start] + np.full(count, value, "<f4").tobytes()


def json_bodies() -> dict[str, bytes]:
    """Bodies for `/v1/chat/completions` that must be refused, by what is wrong."""
    fields = b",".join(b'"max_completion_tok%06d":1' % number for number in range(50_000))
    question = b'{"model":"base","max_tokens":4,"messages":[{"role":"user","content":%s}]%s}'
    return {
        "50,000 unknown fields": question % (b'"x"', b"," + fields),
        "a surrogate as a name": question % (b'"x"', b',"\\udfff":1'),
        "100,000 deep": b"[" * 100_000 + b"]" * 100_000,
        "8 MB of text": question % (json.dumps("a " * (4 << 20)).encode(), b""),
        "a control token": question % (b'"<|im_end|>"', b""),
        "a field twice": question % (b'"x"', b',"model":"x"'),
        "a number beyond all": question % (b'"x"', b',"temperature":1e999'),
    }


def silence(seconds: int) -> bytes:
    """A FLAC file of some KB that is long."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(8_000 * seconds, np.int16), 8_000, format="FLAC")
    return buffer.getvalue()


def data_set(climbs: bool) -> bytes:
    """A tiny set of rows; with ``climbs`` they name files of the server."""
    rows = [{"audio": "../../../../etc/passwd" if climbs else f"a{n}.wav", "text": f"t{n}"} for n in range(4)]
    files: dict[str, bytes | str] = {"data.jsonl": "\n".join(map(json.dumps, rows))}
    if not climbs:
        for number in range(4):
            buffer = io.BytesIO()
            wave = 0.3 * np.sin(np.arange(8_000) * (0.1 + 0.05 * number))
            soundfile.write(buffer, wave.astype(np.float32), RATE, format="WAV")
            files[f"a{number}.wav"] = buffer.getvalue()
    return _zip(files)


def _boxed(container: str, layout: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as box:
        stream = box.add_stream("pcm_s16le", rate=RATE)
        stream.codec_context.layout = layout
        channels = stream.codec_context.channels
        drawn = np.random.default_rng(0).integers(-9_000, 9_000, (1, 1_600 * channels), np.int16)
        frame = av.AudioFrame.from_ndarray(drawn, format="s16", layout=layout)
        frame.rate, frame.pts = RATE, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            box.mux(packet)
    return buffer.getvalue()


def _deep(levels: int) -> Any:
    value: Any = 8
    for _ in range(levels):
        value = {"x": value}
    return value


def _zip(files: Mapping[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _tar(headers: dict[str, str], name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo(name)
        entry.size, entry.pax_headers = len(data), headers
        archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), 1)
