"""Headless Chromium, driven over its DevTools protocol; a test without a browser is skipped."""

import base64
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from subprocess import DEVNULL, PIPE
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless=new",
    # A container runs tests as root, for which Chromium has no sandbox; the page is our own.
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-proxy-server",
    "--remote-debugging-port=0",
)
_LISTENING = re.compile(rb"DevTools listening on (ws://\S+)")
_START_S = 30.0
_END_S = 10.0

Json = dict[str, Any]


def browser_program() -> str:
    """Return the path of a Chromium; skip the test where there is none."""
    found = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if found is None:
        pytest.skip("there is no Chromium on this machine")
    return found


class Page:
    """One tab: evaluates JavaScript, and keeps what the page logs and requests."""

    def __init__(self, ws: WebSocketConnection) -> None:
        self.problems: list[str] = []
        self.requested: list[str] = []
        self._ws = ws
        self._ids = count(1)
        self._answers: dict[int, Json] = {}
        self._changed = trio.Event()
        self._session: str | None = None

    async def attach(self) -> None:
        """Open a tab."""
        target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
        attached = await self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")

    async def send(self, method: str, **params: object) -> Json:
        """Call a method of the protocol; return its result."""
        call_id = next(self._ids)
        message: Json = {"id": call_id, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        await self._ws.send_message(json.dumps(message))
        while call_id not in self._answers:
            await self._changed.wait()
        answer = self._answers.pop(call_id)
        assert "error" not in answer, (method, answer)
        result: Json = answer["result"]
        return result

    async def evaluate(self, script: str) -> Any:
        """Return the value of an expression, awaited, as if the user had just clicked."""
        answer = await self.send(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until an expression holds."""
        await self.evaluate(
            f"""new Promise((resolve) => {{
              const look = () => (({condition}) ? resolve() : setTimeout(look, 10));
              look();
            }})"""
        )

    async def open(self, url: str) -> None:
        """Go to a page; return when it has loaded."""
        await self.send("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse."""
        x, y = await self.evaluate(
            f"""(() => {{
              const element = document.querySelector({json.dumps(selector)});
              element.scrollIntoView({{ block: "center" }});
              const box = element.getBoundingClientRect();
              return [box.x + box.width / 2, box.y + box.height / 2];
            }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.send(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )

    async def press(self, key: str, code: int, *, modifiers: int = 0) -> None:
        """Press and release a key; `code` is its Windows virtual key code."""
        for kind in ("rawKeyDown", "keyUp"):
            await self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                modifiers=modifiers,
            )

    async def fill(self, selector: str, text: str) -> None:
        """Set a field, as typing would."""
        await self.evaluate(
            f"""(() => {{
              const field = document.querySelector({json.dumps(selector)});
              field.value = {json.dumps(text)};
              for (const kind of ["input", "change"])
                field.dispatchEvent(new Event(kind, {{ bubbles: true }}));
            }})()"""
        )

    async def receive(self) -> None:
        """Receive the browser's messages until it ends."""
        try:
            while True:
                message = json.loads(await self._ws.get_message())
                if "id" in message:
                    self._answers[message["id"]] = message
                    self._changed.set()
                    self._changed = trio.Event()
                else:
                    self._note(message["method"], message["params"])
        except ConnectionClosed:
            return

    def _note(self, method: str, params: Json) -> None:
        match method:
            case "Runtime.exceptionThrown":
                self.problems.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.problems.append(json.dumps(params["args"]))
            case "Log.entryAdded":
                self.problems.append(f"{params['entry']['text']} {params['entry'].get('url')}")
            case "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])
            case "Network.webSocketCreated":
                self.requested.append(params["url"])


@asynccontextmanager
async def open_page() -> AsyncIterator[Page]:
    """Run a browser of its own, with an empty profile, and yield its one tab."""
    program = browser_program()
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        async with (
            _running([program, *_FLAGS, f"--user-data-dir={profile}"]) as url,
            open_websocket_url(url, max_message_size=1 << 26) as ws,
            trio.open_nursery() as nursery,
        ):
            page = Page(ws)
            nursery.start_soon(page.receive)
            await page.attach()
            yield page
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _running(command: list[str]) -> AsyncIterator[str]:
    """Run a browser; yield the address of its DevTools."""
    process = await trio.lowlevel.open_process(command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    assert process.stderr is not None
    read = b""
    try:
        with trio.move_on_after(_START_S):
            async for data in process.stderr:
                read += data
                if found := _LISTENING.search(read):
                    break
        if (found := _LISTENING.search(read)) is None:
            pytest.skip(f"Chromium does not start here: {read[-300:]!r}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_discard, process.stderr)
            yield found[1].decode()
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            process.terminate()
            with trio.move_on_after(_END_S):
                await process.wait()
            process.kill()
            await process.stderr.aclose()


async def _discard(stream: trio.abc.ReceiveStream) -> None:
    # A full pipe would stop the browser.
    async for _ in stream:
        pass


async def screenshot(page: Page, *, quality: int | None = None) -> bytes:
    """Return what the tab shows as PNG, or as WebP of this quality."""
    kind: Json = {"format": "png"} if quality is None else {"format": "webp", "quality": quality}
    shot = await page.send("Page.captureScreenshot", **kind)
    return base64.b64decode(shot["data"])
