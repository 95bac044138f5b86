"""Whole batches against a real server in the test's loop: what is done, kept, reported, joined."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from csm_trio.audio.decode import decode
from csm_trio.audio.loudness import loudness_lufs
from csm_trio.audio.wav import read_wav
from csm_trio.batch.item import BadInput
from csm_trio.batch.manifest import MANIFEST_NAME
from csm_trio.config import Config
from support.batch_runs import audio_files, batch_options, recorded, run_batch_here
from support.client_calls import KEY, SPEECH, http_client, locked, running_server, until
from support.fakes import SineRunner, StepGate
from support.serving import TEST_SERVER, Server, serving

TEXTS = "Hello.\nThank you for calling.\nGoodbye."


def write(path: Path, text: str, name: str = "input.txt") -> Path:
    source = path / name
    source.write_text(text)
    return source


def utterances(server: Server) -> float:
    return server.metric("csm_utterance_ends_total", reason="spoken")


async def test_every_line_becomes_a_file_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    source, out = write(tmp_path, TEXTS), tmp_path / "out"
    async with running_server() as server:
        first = await run_batch_here(source, out, "--url", server.url())
        made = audio_files(out)
        second = await run_batch_here(source, out, "--url", server.url())
        assert utterances(server) == 3
    assert (first.status, second.status) == (0, 0)
    assert first.lines[-1].startswith("3 done, 0 kept, 0 failed of 3 items | audio ")
    assert second.lines[-1].startswith("0 done, 3 kept, 0 failed of 3 items")
    assert sorted(made) == ["00001.wav", "00002.wav", "00003.wav"]
    assert audio_files(out) == made
    samples, rate_hz = read_wav(made["00002.wav"])
    assert (len(samples), rate_hz) == (4 * 2 * 1_920, 24_000)
    entry = json.loads((out / MANIFEST_NAME).read_text().splitlines()[0])
    assert entry.keys() >= {"file", "text", "settings", "audio", "audio_s"}


async def test_only_changed_lines_are_done_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    async with running_server() as server:
        await run_batch_here(write(tmp_path, TEXTS), out, "--url", server.url())
        changed = write(tmp_path, TEXTS.replace("Goodbye.", "See you."))
        again = await run_batch_here(changed, out, "--url", server.url())
        assert again.lines[-1].startswith("1 done, 2 kept")
        shifted = write(tmp_path, "First.\n" + TEXTS.replace("Goodbye.", "See you."))
        again = await run_batch_here(shifted, out, "--url", server.url())
        assert again.lines[-1].startswith("1 done, 3 kept")
        other = await run_batch_here(shifted, out, "--url", server.url(), "--seed", "1")
        assert other.lines[-1].startswith("4 done, 0 kept")


async def test_a_line_that_fails_is_reported_and_the_others_are_done(tmp_path: Path) -> None:
    source = write(tmp_path, "text,voice\nHello.,\nREFUSE this.,\nBye.,unheard\n", "in.csv")
    async with running_server() as server:
        result = await run_batch_here(source, tmp_path / "out", "--url", server.url())
    assert result.status == 1
    counts, refused, unknown = result.lines
    assert counts.startswith("1 done, 0 kept, 2 failed of 3 items")
    assert refused.startswith("failed: line 3 (00002.wav): The text is longer than")
    assert unknown.startswith("failed: line 4 (00003.wav): A voice with voice_id 'unheard'")
    assert list(audio_files(tmp_path / "out")) == ["00001.wav"]


async def test_nothing_done_is_status_2(tmp_path: Path) -> None:
    source, out = write(tmp_path, TEXTS), tmp_path / "out"
    result = await run_batch_here(source, out, "--url", "http://127.0.0.1:1", "--patience-s", "0.5")
    assert result.status == 2
    assert "no server for 0.5 s: ws://127.0.0.1:1: " in result.lines[1]
    assert audio_files(out) == {}


async def test_a_wrong_key_ends_the_batch_after_one_refusal(tmp_path: Path) -> None:
    source, out = write(tmp_path, TEXTS), tmp_path / "out"
    async with serving(SineRunner, Config(server=replace(locked(), max_sessions=1))) as server:
        refused = await run_batch_here(source, out, "--url", server.url())
        assert server.metric("csm_refusals_total", reason="Unauthorized") == 1
        assert (
            await run_batch_here(source, out, "--url", server.url(), "--api-key", KEY)
        ).status == 0
    assert refused.status == 2
    assert "Invalid API key" in refused.lines[-1]


async def test_two_servers_share_a_batch_and_a_dead_one_is_left_out(tmp_path: Path) -> None:
    source = write(tmp_path, "\n".join(f"Line {n} FRAMES=20." for n in range(12)))
    async with running_server() as one, running_server() as two:
        urls = ["--url", one.url(), "--url", "http://127.0.0.1:1", "--url", two.url()]
        result = await run_batch_here(source, tmp_path / "out", *urls)
        assert result.status == 0
        assert utterances(one) + utterances(two) == 12
        assert utterances(one) >= 3
        assert utterances(two) >= 3


async def test_a_batch_leaves_a_session_to_live_calls(tmp_path: Path) -> None:
    gate = StepGate()
    source = write(tmp_path, "\n".join(f"Line {n}." for n in range(9)))

    def make_runner() -> SineRunner:
        return SineRunner(4, step_gate=gate)

    with trio.fail_after(30):
        async with serving(make_runner) as server, trio.open_nursery() as nursery:
            nursery.start_soon(run_batch_here, source, tmp_path / "out", "--url", server.url())
            await gate.held()
            await until(lambda: server.state.admission.open_sessions == 3)
            await trio.sleep(0.3)
            assert server.state.admission.open_sessions == 3
            gate.open()
    assert recorded(tmp_path / "out") == 9
    assert server.metric("csm_refusals_total", reason="EngineBusy") == 0


async def test_a_full_server_is_waited_for(tmp_path: Path) -> None:
    source = write(tmp_path, TEXTS)
    config = Config(server=replace(TEST_SERVER, max_sessions=1, admission_wait_ms=0))
    with trio.fail_after(30):
        async with serving(SineRunner, config) as server, trio.open_nursery() as nursery:
            lease = await server.state.admission.admit()
            with lease:
                out = tmp_path / "out"
                nursery.start_soon(run_batch_here, source, out, "--url", server.url())
                await trio.sleep(1.5)
                assert recorded(out) == 0
    assert recorded(out) == 3


async def test_items_have_their_own_format_and_loudness(tmp_path: Path) -> None:
    rows = "text,format\nHello there.,mp3_44100_64\nGoodbye then.,ulaw_8000\nYes.,\n"
    source, out = write(tmp_path, rows, "in.csv"), tmp_path / "out"
    async with running_server() as server:
        result = await run_batch_here(source, out, "--url", server.url(), "--loudness", "-16")
    assert result.status == 0
    options = batch_options(str(source), "--out", str(out))
    assert options.defaults.audio_format.name == "wav_24000"
    files = audio_files(out)
    assert sorted(files) == ["00001.mp3", "00002.ulaw", "00003.wav"]
    samples, rate_hz = read_wav(files["00003.wav"])
    assert loudness_lufs(samples, rate_hz) == pytest.approx(-16, abs=0.1)
    mu_law = replace(options.defaults.audio_format, codec="ulaw", sample_rate_hz=8_000)
    samples, rate_hz = decode(files["00002.ulaw"], mu_law)
    assert loudness_lufs(samples, rate_hz) == pytest.approx(-16, abs=0.7)


FORMATS_AND_ENDINGS = [
    ("pcm_16000", "pcm"),
    ("wav_44100", "wav"),
    ("alaw_8000", "alaw"),
    ("mp3_22050_32", "mp3"),
    ("opus_48000_64", "opus"),
    ("m4a_aac_44100_128", "m4a"),
]


async def test_files_are_what_the_server_sends_in_every_codec(tmp_path: Path) -> None:
    rows = "\n".join(f"Hello there FRAMES=25.,{name}" for name, _ in FORMATS_AND_ENDINGS)
    source, out = write(tmp_path, f"text,format\n{rows}", "in.csv"), tmp_path / "out"
    async with running_server() as server:
        result = await run_batch_here(source, out, "--url", server.url())
        assert result.status == 0
        async with http_client(server) as client:
            for index, (name, ending) in enumerate(FORMATS_AND_ENDINGS, start=1):
                path = f"{SPEECH}?output_format={name}"
                sent = await client.post(path, json={"text": "Hello there FRAMES=25."})
                assert (out / f"{index:05}.{ending}").read_bytes() == sent.content
    entries = [json.loads(line) for line in (out / MANIFEST_NAME).read_text().splitlines()]
    assert all(1.99 <= entry["audio_s"] <= 2.12 for entry in entries)


SRT = """1
00:00:00,500 --> 00:00:01,000
One FRAMES=20.

2
00:00:02,000 --> 00:00:03,000
Two FRAMES=22.

3
00:00:03,600 --> 00:00:04,000
Three FRAMES=40.

4
00:00:05,600 --> 00:00:06,000
Four FRAMES=5.
"""


async def test_subtitles_start_at_their_times_and_long_ones_are_sped_up(tmp_path: Path) -> None:
    source, out, whole = write(tmp_path, SRT, "in.srt"), tmp_path / "out", tmp_path / "whole.wav"
    flags = ["--join", str(whole)]
    async with running_server() as server:
        result = await run_batch_here(source, out, "--url", server.url(), *flags)
        again = await run_batch_here(source, out, "--url", server.url(), *flags)
    assert (result.status, again.status) == (0, 0)
    assert again.lines[0].startswith("0 done, 4 kept")
    entries = [json.loads(line) for line in (out / MANIFEST_NAME).read_text().splitlines()]
    assert {one["file"]: (one["speed"], one["natural_s"]) for one in entries} == {
        "00001.wav": (1.07, 1.6),
        "00002.wav": (1.1, 1.76),
        "00003.wav": (1.2, 3.2),
        "00004.wav": (1.0, 0.4),
    }
    (too_long,) = [line for line in result.lines if line.startswith("too long: line 10 (")]
    assert "takes 2.67 s at speed 1.2" in too_long
    samples, _ = read_wav(whole.read_bytes())
    for start_s in (0.5, 2.0):
        start = round(start_s * 24_000)
        assert not samples[start - 100 : start].any()
        assert samples[start : start + 240].any()


async def test_a_book_has_chapters_pauses_and_the_same_bytes_again(tmp_path: Path) -> None:
    rows = "text,chapter,pause_s\nOne.,First,0\nTwo.,,1\nThree.,Second,\n"
    source, out, book = write(tmp_path, rows, "in.csv"), tmp_path / "out", tmp_path / "book.m4b"
    async with running_server() as server:
        flags = ["--url", server.url(), "--join", str(book)]
        result = await run_batch_here(source, out, *flags)
        bytes_once = book.read_bytes()
        await run_batch_here(source, out, *flags)
    assert result.lines[-1] == f"joined: {book} (0:01)"
    assert book.read_bytes() == bytes_once


async def test_a_batch_with_gaps_is_not_joined(tmp_path: Path) -> None:
    source, whole = write(tmp_path, "Hello.\nREFUSE this."), tmp_path / "whole.wav"
    async with running_server() as server:
        flags = ["--url", server.url(), "--join", str(whole)]
        result = await run_batch_here(source, tmp_path / "out", *flags)
    assert result.lines[-1] == "not joined: 1 items are missing"
    assert not whole.exists()


FLAGS = [
    (["--seed", "x"], "--seed must be a whole number"),
    (["--speed", "2"], "--speed must be a number from 0.7 to 1.2"),
    (["--loudness", "3"], "--loudness must be a number from -40 to -5"),
    (["--join", "a.ogg"], "--join must end in one of .wav, .mp3, .m4b, .m4a"),
    (["--max-audio-len-ms", "1"], "--max-audio-len-ms must be"),
]


@pytest.mark.parametrize(("flags", "sentence"), FLAGS)
def test_a_bad_flag_is_a_sentence(flags: list[str], sentence: str) -> None:
    with pytest.raises(BadInput, match=re.escape(sentence)):
        batch_options("x.txt", "--out", "x", *flags)
