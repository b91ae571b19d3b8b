"""Drawn videos keep the sound of their sources."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.prediction import outputs
from tools.prediction.inputs import InputFile, VideoHeader
from tools.prediction.outputs import PictureWriter
from tools.prediction.sound import MISSING

FPS, FRAMES, RATE, TONE = 10, 8, 48_000, 440.0


def drawn(source: Path, folder: Path, *, frames: int = FRAMES) -> tuple[Path, list[str]]:
    """The drawn video of a source, and the notes on it."""
    with PictureWriter(folder, enabled=True) as writer:
        for number in range(frames):
            picture = np.full((48, 64, 3), 20 * number, np.uint8)
            writer.add("clip", InputFile(source, source.name), lambda picture=picture: picture, is_frame=True)
    return folder / "clip.mp4", writer.notes


def film(path: Path, codec: str, *, tone: float = TONE) -> Path:
    """A video of 0.8 seconds with 1.2 seconds of a tone, or without sound if the codec is ""."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as file:
        video = file.add_stream("libvpx-vp9" if path.suffix == ".webm" else "mpeg4", rate=FPS)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = file.add_stream(codec, rate=RATE, layout="mono") if codec else None
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number, np.uint8), format="rgb24")
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if sound:
            wave = np.sin(2 * np.pi * tone * np.arange(RATE * 12 // 10) / RATE)
            samples = av.AudioFrame.from_ndarray((wave * 20_000).astype(np.int16)[None], format="s16", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = RATE, 0, Fraction(1, RATE)
            file.mux(sound.encode(samples))
            file.mux(sound.encode(None))
    return path


def heard(path: Path) -> tuple[Any, np.ndarray]:
    """The codec and the samples of a video's sound."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as file:
        assert file.streams.video[0].codec_context.name == "vp9" and file.streams.video[0].frames == FRAMES
        sound = file.streams.audio[0]
        parts = [frame.to_ndarray()[0].astype(np.float64) for frame in file.decode(sound)]
        return sound.codec_context.name, np.concatenate(parts)


@pytest.mark.parametrize(
    ("name", "codec", "kept"),
    [
        ("a.mp4", "aac", "aac"),
        ("a.webm", "libopus", "opus"),
        ("a.mkv", "flac", "flac"),
        ("a.mov", "pcm_s16le", "aac"),
        ("a.mkv", "ac3", "aac"),
    ],
)
def test_a_drawn_video_sounds_like_its_source_up_to_its_end(tmp_path: Path, name: str, codec: str, kept: str):
    path, notes = drawn(film(tmp_path / name, codec), tmp_path / "drawn")
    found, samples = heard(path)
    assert notes == [] and found == kept
    # Codecs store whole frames of up to 4608 samples (FLAC), and begin with up to 2048 samples of silence (AAC).
    assert abs(len(samples) - RATE * FRAMES / FPS) <= 2 * 4608
    middle = samples[RATE // 5 : RATE // 2]
    peak = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))).argmax() * RATE / len(middle)
    assert abs(peak - TONE) <= RATE / len(middle)  # the width of a bin
    assert [file.name for file in path.parent.iterdir()] == ["clip.mp4"]


def test_a_source_without_sound_gives_a_silent_video_without_a_note(tmp_path: Path):
    path, notes = drawn(film(tmp_path / "a.mp4", ""), tmp_path / "drawn")
    assert path.stat().st_size and notes == []


def test_sound_that_cannot_be_read_leaves_the_drawn_video_and_a_note(tmp_path: Path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.setattr(outputs, "read_header", lambda path: VideoHeader(FPS, FRAMES))
    source = tmp_path / "a.mp4"
    source.write_bytes(b"no video" * 99)
    path, notes = drawn(source, tmp_path / "drawn")
    assert path.stat().st_size and len(notes) == 1
    assert f"{path}: has no sound, because that of {source} cannot be copied" in notes[0]


def test_without_pyav_one_line_says_that_the_sound_is_left_out(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(outputs, "can_add_sound", lambda: False)
    monkeypatch.setattr(outputs, "read_header", lambda path: VideoHeader(FPS, FRAMES))
    path, notes = drawn(tmp_path / "a.mp4", tmp_path / "drawn")
    assert path.stat().st_size and notes == [MISSING]
