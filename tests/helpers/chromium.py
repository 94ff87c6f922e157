"""Headless Chromium, spoken to over a pipe (the DevTools protocol, `--remote-debugging-pipe`): what a page does in it.

python tests/helpers/chromium.py report.html FOLDER     # screenshots: wide, phone, dark
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")
WIDE, PHONE = 1280, 390


class Page:
    """One page: ``open`` it at a width, ask it, take its picture. ``events`` is all that the browser has told."""

    def __init__(self, given, told):
        self.given, self.told = given, told
        self.events, self.number, self.session = [], 0, None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **params):
        """The answer to one call; events that come before it are kept."""
        self.number += 1
        call = {"id": self.number, "method": method, "params": params}
        self.given.write(json.dumps(call | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        self.given.flush()
        while (message := self._next()).get("id") != self.number:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def open(self, path, width, scheme="light"):
        """Load a file as a window of this width shows it; a phone's is a phone."""
        self.events.clear()
        phone = width < 600
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )  # fmt: skip
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", url=Path(path).resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, expression):
        """What a JavaScript expression comes to."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]

    def requests(self):
        """Addresses that were asked for, ``data:`` aside: the page's own is the first."""
        sent = [event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent if not one["request"]["url"].startswith("data:")]

    def complaints(self):
        """Errors and warnings of the console and the page."""
        kinds = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
        return [event["params"] for event in self.events if event.get("method") in kinds]

    def picture(self, path, whole=False):
        """A PNG of the window, or of the whole page."""
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def _clip(self, whole):
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"] if whole else {}
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}} if whole else {}

    def _next(self):
        message = bytearray()
        while (byte := self.told.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            message += byte
        return json.loads(message)


@contextmanager
def browser():
    """A page of a browser with a profile of its own, both gone afterwards."""
    given, told = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [CHROMIUM, *QUIET, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        shell = f'exec "$@" 3<&{given[0]} 4>&{told[1]}'
        process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *words], pass_fds=(given[0], told[1]), stderr=subprocess.DEVNULL
        )
        os.close(given[0])
        os.close(told[1])
        try:
            with os.fdopen(given[1], "wb") as writer, os.fdopen(told[0], "rb") as reader:
                yield Page(writer, reader)
        finally:
            process.terminate()
            process.wait()


def main(path, folder):
    """Wide, phone and dark."""
    with browser() as page:
        for name, width, scheme, whole in (
            *(("wide", WIDE, "light", False), ("phone", PHONE, "light", False), ("dark", WIDE, "dark", False)),
            *(("wide-whole", WIDE, "light", True), ("phone-whole", PHONE, "light", True)),
        ):
            page.open(path, width, scheme)
            page.picture(Path(folder) / f"{name}.png", whole)
            print(name, page.value("document.documentElement.scrollWidth"), page.requests()[1:], page.complaints())


if __name__ == "__main__":
    main(*sys.argv[1:])
