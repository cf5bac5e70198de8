"""Headless Chromium, driven over a pipe by its own protocol (https://chromedevtools.github.io), without a framework."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM and CHROMIUM.startswith("/snap/"):
    CHROMIUM = None  # it sees no files of /tmp
SECONDS = 60  # for an answer


class Browser:
    """One Chromium; its folder holds what it keeps. Messages are JSON and a zero byte, in and out by two pipes."""

    def __init__(self, folder):
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_child, from_child)]  # clear of 3 and 4
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}"]
        files = [(os.POSIX_SPAWN_DUP2, end, number) for number, end in enumerate(ends, start=3)]
        files += [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
        self._process = os.posix_spawn(
            CHROMIUM, [CHROMIUM, *options, "--remote-debugging-pipe", "about:blank"], os.environ, file_actions=files
        )
        for end in (to_child, from_child, *ends):
            os.close(end)
        self._number, self._read, self._session = 0, b"", None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")

    def call(self, method, **params):
        """The answer to a method of the protocol. What it tells besides is dropped."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _next(self):
        until = time.monotonic() + SECONDS
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._in], [], [], max(0, until - time.monotonic()))
            piece = os.read(self._in, 1 << 16) if ready else b""
            assert piece, "Chromium does not answer"
            self._read += piece
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    def open(self, url, *, width=1280, height=1000, dark=False, still=True):
        """A page, loaded; `still` asks it for less motion."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        wanted = {"prefers-color-scheme": "dark" if dark else "light"}
        wanted["prefers-reduced-motion"] = "reduce" if still else "no-preference"
        features = [{"name": name, "value": value} for name, value in wanted.items()]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url="about:blank")  # another place on the same page would not load it anew
        self.call("Page.navigate", url=url)
        loaded = f"document.readyState === 'complete' && location.href === {json.dumps(url)}"
        until = time.monotonic() + SECONDS
        while not self.run(f"return {loaded};"):
            assert time.monotonic() < until, f"{url} does not load"

    def run(self, script):
        """What the body of an async function returns, as JSON has it."""
        told = self.call(
            "Runtime.evaluate", expression=f"(async () => {{ {script} }})()", awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"].get("exception", told)
        return told["result"].get("value")

    def press(self, key):
        """A key, as from the keyboard."""
        code = {"Tab": 9, "Enter": 13, "ArrowUp": 38, "ArrowRight": 39}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def click(self, x, y):
        """A click of the left button at a place of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def roles(self):
        """(role, name) of everything that a screen reader is told, in its order."""
        told = self.call("Accessibility.getFullAXTree")["nodes"]
        value = lambda node, what: node.get(what, {}).get("value", "")  # noqa: E731
        return [(value(node, "role"), value(node, "name")) for node in told if not node["ignored"]]

    def picture(self, path):
        """The whole page as a PNG."""
        made = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(made["data"]))

    def close(self):
        os.kill(self._process, signal.SIGTERM)
        os.waitpid(self._process, 0)
        os.close(self._in)
        os.close(self._out)
