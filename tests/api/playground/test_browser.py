"""The playground in a real browser: what a user sees and hears; skipped where there is none."""

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from csm_trio.config import Config, ServerConfig, SpeechConfig
from csm_trio.engine.utterance import StepResult
from support.browser import Page, open_page
from support.client_calls import KEY, locked, sine_speech, until
from support.fakes import SineRunner
from support.serving import TEST_SERVER, Server, serving

GUARD_S = 90.0
NARROW = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
SPEECH = "(await import(document.querySelector('script').src)).speech"


class PacedRunner(SineRunner):
    """A sine runner whose steps take time, as a model's do: half that of their speech."""

    step_s = 0.04

    def step(self, slots: Sequence[int]) -> Sequence[StepResult]:
        time.sleep(self.step_s)
        return super().step(slots)


@asynccontextmanager
async def opened(
    runner: Callable[[], SineRunner] = PacedRunner,
    server: ServerConfig = TEST_SERVER,
    *,
    speech: SpeechConfig | None = None,
    before: str = "",
    narrow: bool = False,
) -> AsyncIterator[tuple[Page, Server]]:
    """Serve, and open the page; without a key it has loaded its voices."""
    with trio.fail_after(GUARD_S):
        config = Config(server=server, speech=speech or SpeechConfig())
        async with serving(runner, config) as running, open_page() as page:
            if narrow:
                await page.send("Emulation.setDeviceMetricsOverride", **NARROW)
            await page.send("Page.addScriptToEvaluateOnNewDocument", source=before)
            await page.open(running.url("/"))
            if server.api_key is None:
                await page.until(has_voices)
            yield page, running


has_voices = "document.querySelector('#voice').options.length > 0"


def text_of(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)}).textContent"


async def play(page: Page, text: str, *, format_name: str = "pcm_24000") -> None:
    """Click Play for a text."""
    await page.fill("#text", text)
    await page.fill("#format", format_name)
    await page.click("#play")


async def played(page: Page) -> dict[str, Any]:
    """Wait for the end of playback; return what the page knows of it."""
    await page.until(f"{text_of('#status')}.startsWith('Played')")
    report = await page.evaluate(
        f"(async () => {{ const speech = {SPEECH}; return {{"
        " samples: [...speech.samples].map((one) => one * 32768),"
        " report: speech.player.report, ttfaMs: speech.ttfaMs, rtf: speech.realTimeFactor,"
        " starts: [...speech.words.starts].map((one) => one ?? null) }; })()"
    )
    assert isinstance(report, dict)
    return report


async def test_it_loads_without_an_error_or_a_request_elsewhere() -> None:
    async with opened() as (page, server):
        voices = await page.evaluate("[...document.querySelector('#voice').options].map(String)")
        assert len(voices) == len(server.state.voices.all())
        await page.click("#server-tab")
        await page.until(f"{text_of('#slots-text')}.includes('of 4')")
        assert page.problems == []
        assert page.requested
        assert all(url.startswith(server.url("/")) for url in page.requested)


RECORD = """
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (target, ...others) {
  if (target === this.context.destination) {
    window.analyser = new AnalyserNode(this.context, { fftSize: 32768 });
    connect.call(this, window.analyser);
  }
  return connect.call(this, target, ...others);
};
"""
RENDERED = """(async () => {
  await (await import(document.querySelector('script').src)).speech.player.finished;
  const samples = new Float32Array(window.analyser.fftSize);
  window.analyser.getFloatTimeDomainData(samples);
  return [...samples].map((one) => one * 32768);
})()"""
WITHOUT_WORKLETS = (
    "Object.defineProperty(BaseAudioContext.prototype, 'audioWorklet', { value: undefined });"
)


@pytest.mark.parametrize("before", [RECORD, RECORD + WITHOUT_WORKLETS], ids=["worklet", "sources"])
async def test_what_the_audio_graph_renders_is_the_speech_without_a_gap(before: str) -> None:
    runner = SineRunner()
    async with opened(lambda: runner, before=before) as (page, _):
        # 0.96 s: all of it is in the analyser, which holds the last 1.36 s.
        await play(page, "FRAMES=12 of speech.")
        await page.until("window.analyser !== undefined")
        rendered = np.array(await page.evaluate(RENDERED))
        report = await played(page)
    expected = np.frombuffer(sine_speech(runner.opened, "pcm_24000"), dtype=np.int16)
    assert report["samples"] == expected.tolist()
    assert report["report"]["played"] == len(expected)
    assert report["report"]["gaps"] == 0
    loud = np.abs(expected).max()
    assert loud > 1_000
    begin = len(rendered) - len(expected)
    matches = [
        np.abs(rendered[at : at + len(expected)] - expected).max() < 4
        for at in range(begin + 1)
        if abs(rendered[at + 1] - expected[1]) < 4 and abs(rendered[at + 99] - expected[99]) < 4
    ]
    assert any(matches)
    assert page.problems == []


@pytest.mark.parametrize("format_name", ["pcm_8000", "ulaw_8000", "pcm_44100"])
async def test_other_rates_are_heard_as_they_are_sent(format_name: str) -> None:
    async with opened() as (page, _):
        await play(page, "FRAMES=6 of speech.", format_name=format_name)
        report = await played(page)
        assert await page.evaluate(f"(async () => {SPEECH}.player.context.sampleRate)()") == int(
            format_name.split("_")[1]
        )
    assert max(report["samples"]) > 1_000


async def test_words_light_up_in_order_as_they_are_spoken() -> None:
    text = "One two three four five six seven eight."
    async with opened() as (page, _):
        await page.evaluate(
            """{
              window.lit = [];
              new MutationObserver(() => {
                const now = document.querySelector("#transcript .now")?.textContent;
                if (now && now !== window.lit.at(-1)) window.lit.push(now);
              }).observe(document.querySelector("#transcript"),
                { subtree: true, attributes: true, childList: true });
            }"""
        )
        await play(page, text)
        report = await played(page)
        lit = await page.evaluate("window.lit")
        assert await page.evaluate(text_of("#transcript")) == text
        assert await page.evaluate("document.querySelectorAll('#transcript .spoken').length") >= 15
    starts = [start for start in report["starts"] if start is not None]
    assert len(starts) == 8
    assert starts == sorted(starts)
    # An animation frame may miss a word on a busy machine; order may not suffer.
    words = text.split()
    assert len(lit) >= 2
    assert [words.index(word) for word in lit] == sorted(words.index(word) for word in lit)


async def test_text_comes_word_by_word_and_the_figures_are_shown() -> None:
    runner = PacedRunner()
    async with opened(lambda: runner) as (page, _):
        await page.click("input[name=sending][value=words]")
        await page.fill("#words-per-s", "100")
        await play(page, "Sent as an LLM writes. And then some more.")
        report = await played(page)
        figures = {
            name: await page.evaluate(text_of(f"#{name}"))
            for name in ("ttfa", "rtf", "buffer", "gaps", "audio")
        }
    assert len(runner.opened) == 2
    assert report["ttfaMs"] > 0
    assert abs(int(figures["ttfa"].split()[0]) - report["ttfaMs"]) <= 1
    assert figures["buffer"] == "0.00 s"
    assert float(figures["rtf"]) > 0
    assert float(figures["audio"].split()[0]) == pytest.approx(
        len(report["samples"]) / 24_000, abs=0.011
    )


# Its second sentence is still to be written when it is interrupted.
INTERRUPTED = f"Alpha bravo charlie delta FRAMES=370 of echo. {'Foxtrot golf hotel. ' * 80}"


@pytest.mark.parametrize(
    ("how", "sending", "before"),
    [("button", "whole", ""), ("key", "words", ""), ("key", "whole", WITHOUT_WORKLETS)],
    ids=["button", "word by word", "without worklets"],
)
async def test_an_interruption_shows_what_was_heard_and_when_the_slot_was_free(
    how: str, sending: str, before: str
) -> None:
    async with opened(before=before) as (page, server):
        await page.click(f"input[name=sending][value={sending}]")
        await play(page, INTERRUPTED)
        await page.until("document.querySelector('#transcript .now') !== null")
        await page.until(f"parseFloat({text_of('#audio')}) > 1")
        if how == "button":
            await page.click("#interrupt")
        else:
            await page.press("Escape", 27)
        await page.until("!document.querySelector('#interruption').hidden")
        heard = await page.evaluate(text_of("#heard-text"))
        free = await page.evaluate(text_of("#slot-free"))
        state = await page.evaluate(
            f"(async () => {{ const one = {SPEECH}; return"
            " [one.heardMs, one.audioS, one.slotFreeMs, one.player.report.done]; })()"
        )
        assert server.state.engine.borrowed_slots == 0
    heard_ms, audio_s, free_ms, done = state
    assert heard
    assert INTERRUPTED.startswith(heard)
    assert 0 < heard_ms < 1000 * audio_s
    assert free.startswith("The slot was free ")
    assert abs(int(free.split()[4]) - free_ms) <= 1
    assert done


@pytest.mark.usefixtures("each_topology")
async def test_a_locked_server_asks_for_its_key_and_refuses_a_wrong_one() -> None:
    async with opened(server=locked()) as (page, _):
        await page.until("!document.querySelector('#key-form').hidden")
        assert await page.evaluate(text_of("#key-error")) == ""
        await page.fill("#key", "wrong")
        await page.click("#key-form button")
        await page.until(f"{text_of('#key-error')} !== ''")
        assert await page.evaluate("document.activeElement.id") == "key"
        await page.fill("#key", KEY)
        await page.click("#key-form button")
        await page.until(has_voices)
        assert await page.evaluate("document.querySelector('#key-form').hidden")
        await play(page, "FRAMES=6 of speech.")
        assert (await played(page))["report"]["played"] == 6 * 1_920
        assert await page.evaluate("localStorage.length + sessionStorage.length") == 0
        assert await page.evaluate("document.cookie") == ""
        assert KEY not in await page.evaluate("document.documentElement.outerHTML")
        assert await page.evaluate("document.querySelector('#key').value") == ""
        assert all(KEY not in url for url in page.requested)
        assert "$CSM_API_KEY" in await page.evaluate(text_of("#curl-panel"))


async def test_a_full_server_is_reported() -> None:
    full = replace(TEST_SERVER, max_sessions=1, admission_wait_ms=0)
    async with opened(server=full) as (page, server), server.dial():
        await play(page, "FRAMES=4 now.")
        await page.until(f"{text_of('#error')}.includes('full')")
        assert await page.evaluate(text_of("#status")) == ""


async def test_a_voice_name_never_becomes_markup(tmp_path: Path) -> None:
    name = "</option><img src=x onerror=alert(1)>"
    (tmp_path / "voices.json").write_text(json.dumps({"evil": {"speaker_id": 0, "name": name}}))
    speech = SpeechConfig(voices_file=tmp_path / "voices.json")
    async with opened(speech=speech) as (page, _):
        options = "[...document.querySelector('#voice').options].map((one) => one.textContent)"
        assert f"{name} (evil)" in await page.evaluate(options)
        assert await page.evaluate("document.querySelectorAll('main img').length") == 0
        assert page.problems == []


async def test_text_and_errors_never_become_markup() -> None:
    hostile = "<img src=x onerror=alert(1)> & <b>bold</b> FRAMES=2"
    async with opened() as (page, _):
        await play(page, hostile)
        await page.until(f"{text_of('#status')} === 'Played to its end.' || {text_of('#error')}")
        assert await page.evaluate(text_of("#transcript")) == hostile
        assert await page.evaluate("document.querySelectorAll('main img, main b').length") == 0
        assert hostile.split(" &")[0] in await page.evaluate(text_of("#curl-panel"))
        assert page.problems == []


async def test_a_failed_text_is_reported_and_the_next_is_spoken() -> None:
    async with opened() as (page, server):
        await play(page, "REFUSE this.")
        await page.until(f"{text_of('#error')} !== ''")
        await until(lambda: server.state.admission.open_sessions == 0)
        await play(page, "FRAMES=4 now.")
        assert (await played(page))["report"]["played"] == 4 * 1_920
        assert await page.evaluate(text_of("#error")) == ""


@pytest.mark.parametrize("panel", ["speech", "server"])
async def test_it_fits_400_pixels(panel: str) -> None:
    async with opened(narrow=True) as (page, _):
        await play(page, f"FRAMES=4 of {'unbreakable' * 20}.")
        await played(page)
        await page.click(f"#{panel}-tab")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 400
        narrow = await page.evaluate(
            "[...document.querySelectorAll('button, input, select, textarea, canvas, pre')]"
            ".map((one) => one.getBoundingClientRect()).filter((box) => box.right > 400).length"
        )
        assert narrow == 0


async def test_play_twice_speaks_the_second_alone() -> None:
    async with opened() as (page, server):
        await page.fill("#format", "pcm_24000")
        await page.evaluate(
            """{
              for (const frames of [200, 4]) {
                document.querySelector("#text").value = `FRAMES=${frames} of speech.`;
                document.querySelector("#play").click();
              }
            }"""
        )
        assert (await played(page))["report"]["played"] == 4 * 1_920
        await play(page, "FRAMES=300 of speech.")
        await page.until(f"parseFloat({text_of('#audio')}) > 1")
        await play(page, "FRAMES=5 of speech.")
        assert (await played(page))["report"]["played"] == 5 * 1_920
        await until(lambda: server.state.admission.open_sessions == 0)


async def test_it_works_by_keyboard_alone() -> None:
    async with opened() as (page, _):
        await page.fill("#text", "FRAMES=4 of speech.")
        await page.evaluate("document.querySelector('#text').focus()")
        await page.press("Enter", 13, modifiers=2)
        await played(page)
        await page.evaluate("document.querySelector('#speech-tab').focus()")
        await page.press("ArrowRight", 39)
        assert await page.evaluate("document.activeElement.id") == "server-tab"
        assert await page.evaluate("document.querySelector('#speech-panel').hidden")
        unnamed = await page.send("Accessibility.getFullAXTree")
        roles = {"button", "textbox", "spinbutton", "combobox", "slider", "tab", "radio", "meter"}
        for node in unnamed["nodes"]:
            if node.get("role", {}).get("value") in roles and not node["ignored"]:
                assert node["name"]["value"], node


@pytest.mark.parametrize(("button", "head"), [("wav", b"RIFF"), ("mp3", b"\xff\xfb")])
async def test_speech_is_downloaded(button: str, head: bytes) -> None:
    async with opened() as (page, _):
        await page.evaluate(
            """{
              const make = URL.createObjectURL;
              URL.createObjectURL = (blob) => { window.saved = blob; return make(blob); };
            }"""
        )
        await play(page, "FRAMES=6 of speech.")
        await played(page)
        await page.click(f"#{button}")
        await page.until("window.saved !== undefined")
        data = bytes(await page.evaluate("window.saved.bytes().then((bytes) => [...bytes])"))
    assert data[:2] == head[:2]
    if button == "wav":
        assert len(data) == 44 + 2 * 6 * 1_920
    else:
        assert len(data) > 5_000
