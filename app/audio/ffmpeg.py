"""Recordings through PyAV: formats of browsers, phones, cameras and encoders.

Three faults of PyAV would end the process, so this module keeps their causes from it:
planar frames of eight and more channels (their list of planes is read past its end), channel layouts in an order of
the file's own (their map is freed twice), and streams that are not sound (FFmpeg decodes pictures while it probes).
"""

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from app.audio.files import (
    HIGHEST_RATE,
    LOWEST_RATE,
    MOST_CHANNELS,
    Block,
    Clock,
    ClockedBytes,
    Samples,
    Source,
    Troubles,
)

# FFmpeg's names. A demuxer that follows names (concat, hls, sdp, dash) is not among them, and no protocol is allowed
DEMUXERS = "mov,matroska,aac,amr,mp3,ogg,flac,wav,w64,aiff,au,caf,asf,avi,flv,mpeg,mpegts,ac3,eac3"
_PCM = "s8 u8 s16le s16be s24le s24be s32le s32be s64le s64be f32le f32be f64le f64be alaw mulaw bluray dvd"
_OTHERS = (
    "aac aac_latm ac3 eac3 alac amrnb amrwb libopencore_amrnb libopencore_amrwb flac gsm gsm_ms"
    " mp1 mp1float mp2 mp2float mp3 mp3float"
    " opus vorbis speex wmav1 wmav2 wmapro wmalossless wmavoice nellymoser adpcm_ima_wav adpcm_ima_qt adpcm_ms"
    " adpcm_swf adpcm_yamaha adpcm_g726 g722 g726 dca truehd mlp tta wavpack qcelp evrc"
)
DECODERS = frozenset([f"pcm_{kind}" for kind in _PCM.split()] + _OTHERS.split())
# Boxes that give channels an order of the file's own, and the one that may hide them by compression. All channels
# are mixed, so their order does not matter; a box of type `free` is passed over.
_LAYOUT_BOXES = (b"chan", b"chnl", b"SA3D", b"iacb", b"cmov")
_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof"})
# The beginnings of all other containers: their bytes are left as they are, and never opened as boxes
_UNBOXED = (
    *(b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b"fLaC", b"OggS", b"\x1aE\xdf\xa3", b"FORM", b".snd", b"#!AMR"),
    *(b"0&\xb2u", b"FLV\1", b"\xff", b"G", b"\x0b\x77", b"\0\0\1\xba"),
)
MOST_PLANES = 7  # FFmpeg's frames end a list of eight pointers with nothing
_TO_FLOAT = {"u8": 2.0**-7, "s16": 2.0**-15, "s32": 2.0**-31, "flt": 1.0, "dbl": 1.0}
_AS_SOUNDFILE = {"flac": "FLAC", "mp3": "MP3", "ogg": "OGG"}  # names in receipts, whatever library decoded
_CODECS_AS_SOUNDFILE = {"mp3": "MPEG_LAYER_III", "mp3float": "MPEG_LAYER_III", "vorbis": "VORBIS", "opus": "OPUS"}


@cache
def load() -> None:
    """Import PyAV whole. It imports parts at their first use, when a decoding process can open no file any more."""
    import av

    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name not in ("av.__main__", "av.about", "av.datasets"):
            importlib.import_module(module.name)


def open_av(data: bytes, clock: Clock, choice: int = 0) -> Source | None:
    """One track as FFmpeg reads it; None where there is no such track, or where it cannot be decoded.

    ``choice`` counts the tracks in the order of preference: the default one first, then as they come.
    """
    import av

    load()
    container = None
    try:
        container = _opened(data, clock)
        streams = list(container.streams.audio)
        readable = [one for one in streams if _decoder(one)]
        stream = sorted(readable, key=lambda one: not one.disposition & av.stream.Disposition.default)[choice]
        context = stream.codec_context
        context.thread_count = 1
        if context.name == "flac":
            context.options = {"err_detect": "crccheck+explode"}
        rate, channels = stream.rate or 0, stream.channels
        if (rate and not LOWEST_RATE <= rate <= HIGHEST_RATE) or channels > MOST_CHANNELS:
            raise LookupError("no sound")  # 0: not known before the first frame
    except (av.FFmpegError, LookupError, ValueError):
        if container is not None:
            container.close()
        return None
    troubles = Troubles()
    format_name = container.format.name
    declared = float(stream.duration * stream.time_base) if "mp4" in format_name and stream.duration else None
    return Source(
        _AS_SOUNDFILE.get(format_name, format_name),
        _codec_name(stream, format_name),
        rate,
        channels,
        declared,
        _blocks(container, stream, format_name, troubles),
        track=streams.index(stream) + 1,
        tracks=len(streams),
        name=_name(stream),
        troubles=troubles,
    )


def open_parts(data: bytes, parts: Sequence[int], clock: Clock, choice: int = 0) -> Source | None:
    """Several recordings in one file, one after another, as one track."""
    ends = [*parts[1:], len(data)]
    first = open_av(data[parts[0] : ends[0]], clock, choice)
    if first is None:
        return None

    def blocks() -> Iterator[Block]:
        yield from first.blocks
        for begin, end in zip(parts[1:], ends[1:], strict=True):
            source = open_av(data[begin:end], clock, choice)
            if source:
                yield from source.blocks
                first.troubles.add(source.troubles)
            else:
                first.troubles.failed()

    return replace(first, blocks=blocks(), declared=None)


def _name(stream: Any) -> str:
    """The track's title, else its language; empty without either."""
    words = stream.metadata
    return next((words[key][:40] for key in ("title", "language") if words.get(key) not in (None, "", "und")), "")


def _decoder(stream: Any) -> bool:
    return stream.codec_context is not None and stream.codec_context.name in DECODERS


def contents(data: bytes, clock: Clock) -> str | None:
    """The reason why a container that FFmpeg opens gives no sound, as a clause; None where it opens none."""
    import av

    try:
        with _opened(data, clock) as container:
            streams = list(container.streams.audio)
            others = [one.type for one in container.streams if one.type in ("video", "subtitle")]
            form = container.format.name
            known = [one for one in streams if one.codec_context is not None]  # others lack even a rate
            codecs = ", ".join(sorted({one.codec_context.name for one in known}))
            rates = [one.rate for one in known if one.rate and not LOWEST_RATE <= one.rate <= HIGHEST_RATE]
    except (av.FFmpegError, LookupError, ValueError):
        return None
    if not streams:
        return f"is not audio: a {others[0] if others else 'video'} ({form}) without a sound track"
    if rates:
        return f"declares {rates[0]:,} samples per second, which no sound has; export it again"
    if any(_decoder(one) for one in streams):
        return f"is {form}, and none of its sound ({codecs}) could be decoded; it may be damaged or cut off"
    return f"is {form} with sound in a codec that is not supported ({codecs or 'unknown'})"


def _opened(data: bytes, clock: Clock) -> Any:
    import av

    demuxers = DEMUXERS
    if data.startswith(_UNBOXED) and data[4:8] not in _FIRST_BOXES:
        demuxers = ",".join(name for name in DEMUXERS.split(",") if name not in ("mov", "caf"))
        if data.startswith(b"FORM"):
            data = data.replace(b"CHAN", b"ANNO")
    else:  # also where the first box is damaged: FFmpeg recognises later ones
        for box in _LAYOUT_BOXES:
            data = data.replace(box, b"free")
    only = {
        "format_whitelist": demuxers,
        "protocol_whitelist": "none",
        "codec_whitelist": ",".join(sorted(DECODERS)),  # while it probes, too
    }
    return av.open(ClockedBytes(data, clock), "r", metadata_errors="ignore", container_options=only)


def _codec_name(stream: Any, format_name: str) -> str:
    name: str = stream.codec_context.name
    if format_name == "flac":
        kind = stream.format.name if stream.format else ""  # unknown where no frame could be read
        return "PCM_16" if kind.startswith("s16") else "PCM_24"
    return _CODECS_AS_SOUNDFILE.get(name, name) if format_name in _AS_SOUNDFILE else name


def _blocks(container: Any, stream: Any, format_name: str, troubles: Troubles) -> Iterator[Block]:
    """Blocks of one track. Packets that cannot be decoded are counted and skipped."""
    import av

    to_packed: dict[tuple[str, str, int], Any] = {}
    with container:
        for packet in _packets(container, stream, troubles):
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError):
                if packet.size:
                    troubles.failed()
                continue
            if frames:
                troubles.at_end = 0
            if format_name == "flac" and frames:
                troubles.foreign += _unused_bytes(packet.size, frames)
            for frame in frames:
                yield from _samples(frame, to_packed, troubles)


def _unused_bytes(size: int, frames: list[Any]) -> int:
    """Bytes of a FLAC packet beyond what its samples take without any compression."""
    width = 2 if frames[0].format.name.startswith("s16") else 4
    plain = sum(frame.samples * frame.layout.nb_channels * width + 64 for frame in frames)
    return size - plain if size > 1.05 * plain else 0


def _packets(container: Any, stream: Any, troubles: Troubles) -> Iterator[Any]:
    """Packets up to the end; after an error, from the next place at which the demuxer can go on."""
    import av

    while True:
        got = False
        try:
            for packet in container.demux(stream):
                got = got or packet.size > 0
                yield packet
            return
        except (av.FFmpegError, ValueError):
            troubles.broken = True
            if not got:
                return


def _samples(frame: Any, to_packed: dict[tuple[str, str, int], Any], troubles: Troubles) -> Iterator[Block]:
    """A frame as float32 [samples, channels]."""
    import av

    rate, channels, name = frame.sample_rate, frame.layout.nb_channels, frame.format.name
    planar = frame.format.is_planar and channels > 1
    if not LOWEST_RATE <= rate <= HIGHEST_RATE or not 0 < channels <= MOST_CHANNELS:
        troubles.failed()
        return
    if name.rstrip("p") not in _TO_FLOAT or (planar and channels > MOST_PLANES):
        key = (name, frame.layout.name, rate)
        try:
            if key not in to_packed:
                to_packed.clear()
                to_packed[key] = av.AudioResampler(format="flt", rate=rate)
            frame.pts = None  # a time that runs backwards is no reason to stop
            for packed in to_packed[key].resample(frame):
                yield rate, _array(packed, channels, planar=False)
        except (av.FFmpegError, ValueError):
            troubles.failed()
    elif frame.samples:
        yield rate, _array(frame, channels, planar=planar)


def _array(frame: Any, channels: int, *, planar: bool) -> Samples:
    name = frame.format.name.rstrip("p")
    array = frame.to_ndarray()
    array = array.T if planar else array.reshape(-1, channels)
    if name == "u8":
        array = array.astype(np.float32) - 128
    scale = np.float32(_TO_FLOAT[name])
    with np.errstate(over="ignore"):  # infinity is refused where levels are measured
        samples: Samples = array.astype(np.float32, copy=False)
    return samples if scale == 1 else samples * scale
