"""Adds the sound of a source video to the video that was drawn from it. Needs PyAV, the extra `video`.

OpenCV, which writes the drawn videos, writes no sound. PyAV copies the packets of the picture, and copies those of the
sound if browsers play them in MP4; other sound is encoded again.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from backbones.errors import first_line

if TYPE_CHECKING:
    from av import AudioStream, Packet
    from av.container import InputContainer, OutputContainer

PLAYABLE = ("aac", "mp3", "opus", "flac")  # codecs of sound that browsers play in MP4
ENCODER = "aac"  # for sound of other codecs
MISSING = "drawn videos have no sound, because PyAV is not installed; pip install av keeps the sound of the sources"


def can_add_sound() -> bool:
    """Return whether PyAV is installed."""
    return find_spec("av") is not None


def add_sound(drawn: Path, source: Path) -> str | None:
    """Add the first sound track of `source` to the MP4 file `drawn`, up to its last frame.

    Returns:
        Why the drawn video has no sound although the source has some, or None. The drawn video is kept in any case.
    """
    import av

    partial = drawn.with_name(f"{drawn.name}.partial")
    try:
        with av.open(str(source)) as given, av.open(str(drawn)) as pictures:
            if not given.streams.audio:
                return None
            with av.open(str(partial), "w", format="mp4") as target:
                _join(pictures, given, target)
        os.replace(partial, drawn)
    except (av.FFmpegError, OSError, ValueError) as error:
        return f"{drawn}: has no sound, because that of {source} cannot be copied ({first_line(error)})"
    finally:
        partial.unlink(missing_ok=True)
    return None


def _join(pictures: InputContainer, given: InputContainer, target: OutputContainer) -> None:
    """Write the packets of the pictures and of the sound in the order of their times."""
    video, sound = pictures.streams.video[0], given.streams.audio[0]
    shown = target.add_stream_from_template(video)
    first = given.streams.video[0] if given.streams.video else sound
    start = float((first.start_time or 0) * (first.time_base or 0))
    end = float((video.duration or 0) * (video.time_base or 0))
    copy = sound.codec_context.name in PLAYABLE
    if copy:
        heard = target.add_stream_from_template(sound)
    else:
        heard = cast("AudioStream", target.add_stream(ENCODER, rate=sound.rate, layout=sound.layout.name))
    timed = [
        ((_seconds(packet), 0, packet) for packet in pictures.demux(video) if packet.dts is not None),
        ((_seconds(packet), 1, packet) for packet in (_copied if copy else _encoded)(given, sound, heard, start, end)),
    ]
    for _, _, packet in heapq.merge(*timed, key=lambda each: each[:2]):
        if packet.stream is video:
            packet.stream = shown
        target.mux(packet)


def _seconds(packet: Packet) -> float:
    return float((packet.dts or 0) * packet.time_base)


def _copied(
    given: InputContainer, sound: AudioStream, heard: AudioStream, start: float, end: float
) -> Iterator[Packet]:
    """Yield the packets of the sound between `start` and `start + end` seconds, with times from 0."""
    for packet in given.demux(sound):
        if packet.dts is None or packet.pts is None or _seconds(packet) < start:
            continue
        if _seconds(packet) >= start + end:
            return
        offset = round(start / float(packet.time_base))
        packet.dts, packet.pts = packet.dts - offset, packet.pts - offset
        packet.stream = heard
        yield packet


def _encoded(
    given: InputContainer, sound: AudioStream, heard: AudioStream, start: float, end: float
) -> Iterator[Packet]:
    """Yield the packets of the sound between `start` and `start + end` seconds, encoded again, with times from 0."""
    for frame in given.decode(sound):
        if frame.pts is None or frame.time_base is None or (time := float(frame.pts * frame.time_base)) < start:
            continue
        if time >= start + end:
            break
        frame.pts -= round(start / float(frame.time_base))
        yield from heard.encode(frame)
    yield from heard.encode(None)
