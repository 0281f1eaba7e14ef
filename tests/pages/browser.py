"""Pages in a real browser: a headless Chromium, spoken to by its own protocol through two pipes.

with Browser() as browser:
    page = browser.open(path, 390, 844, dark=True)
    page.evaluate("document.title")
    page.violations()
"""

import base64
import contextlib
import fcntl
import gzip
import json
import os
import select
import shutil
import signal
import tempfile
import time
from functools import cache
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
SECONDS = 60

# WCAG 2.2 at levels A and AA, and what axe recommends beyond them.
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")

# Keys that aren't letters, by what a page calls them.
CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9, "Enter": 13,
         "Escape": 27, "Home": 36, "End": 35}  # fmt: skip


@cache
def _axe():
    with gzip.open(Path(__file__).with_name("vendor") / "axe.min.js.gz", "rt") as file:
        return file.read()


class Browser:
    """One process, for many pages, one after the other."""

    def __enter__(self):
        assert CHROMIUM is not None
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Chromium reads from 3 and writes to 4; out of the way of both while they are put there.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs_in, theirs_out)]
        words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                 "--remote-debugging-pipe", "--no-first-run", "--disable-dev-shm-usage",
                 f"--user-data-dir={self._profile}", "about:blank"]  # fmt: skip
        actions = [
            (os.POSIX_SPAWN_DUP2, end, place) for end, place in zip(ends, (3, 4), strict=True)
        ]
        actions += [(os.POSIX_SPAWN_OPEN, place, os.devnull, os.O_RDWR, 0) for place in (0, 1, 2)]
        self._process = os.posix_spawn(CHROMIUM, words, os.environ, file_actions=actions)
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        self._count, self._rest, self._events = 0, b"", []
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        self.call("Page.enable")
        self.call("Runtime.enable")
        # As if its window were the one in use: without it nothing gets the focus.
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        return self

    session = None

    def __exit__(self, *_):
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._in)
        os.close(self._out)
        # Its children write there a little longer.
        for _ in range(50):
            with contextlib.suppress(OSError):
                shutil.rmtree(self._profile)
            if not os.path.exists(self._profile):
                break
            time.sleep(0.1)

    def call(self, method, **parameters):
        """What a method of the protocol answers."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        number = self._count
        answer = self._until(lambda found: found.get("id") == number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _until(self, wanted):
        deadline = time.monotonic() + SECONDS
        while True:
            while b"\0" not in self._rest:
                left = deadline - time.monotonic()
                assert left > 0, "the browser doesn't answer"
                assert select.select([self._in], [], [], left)[0], "the browser doesn't answer"
                read = os.read(self._in, 1 << 20)
                assert read, "the browser has ended"
                self._rest += read
            one, _, self._rest = self._rest.partition(b"\0")
            found = json.loads(one)
            if "method" in found:
                self._events.append(found)
            if wanted(found):
                return found

    def open(self, path, width=1280, height=900, dark=False, *, scripts=True):
        """A page in a window of that size, when it has loaded; with its scripts or without."""
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip
        self._events.clear()
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        if not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._until(lambda found: found.get("method") == "Page.loadEventFired")
        page = Page(self)
        if scripts:
            page.settle()
        return page

    def errors(self):
        """What scripts of the page threw since it was opened, and what its policy refused."""
        thrown = [e["params"] for e in self._events if e["method"] == "Runtime.exceptionThrown"]
        said = [e["params"] for e in self._events if e["method"] == "Runtime.consoleAPICalled"]
        return thrown + [one for one in said if one["type"] in ("error", "assert")]


class Page:
    """The page that a browser shows."""

    def __init__(self, browser):
        self._browser = browser

    def evaluate(self, expression):
        """The value of an expression of JavaScript, awaited if it is a promise."""
        found = self._browser.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def settle(self):
        """Wait until it has been laid out and drawn."""
        self.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def text(self, selector):
        """Of the first element."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def press(self, *keys):
        """Keys, one after the other, by what a page calls them: `ArrowRight`, `Tab`, `+`."""
        for key in keys:
            code = CODES.get(key, ord(key) if len(key) == 1 else 0)
            text = {"text": key} if len(key) == 1 else {}
            for kind in ("keyDown", "keyUp"):
                self._browser.call("Input.dispatchKeyEvent", type=kind, key=key,
                                   windowsVirtualKeyCode=code, **text)  # fmt: skip

    def point(self, selector, across=0.5, down=0.5, click=False):
        """Move the pointer to a place within an element, in parts of its sides."""
        x, y, width, height = self.evaluate(
            f"(e => {{ e.scrollIntoView({{block: 'center', behavior: 'instant'}}); "
            "const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        place = {"x": x + across * width, "y": y + down * height}
        self._browser.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
        if click:
            for kind in ("mousePressed", "mouseReleased"):
                self._browser.call("Input.dispatchMouseEvent", type=kind, button="left",
                                   clickCount=1, **place)  # fmt: skip

    def violations(self, *, only_colours=False, opened=True):
        """What axe-core finds wrong, as lines.

        opened: whether all details are opened first; those of large tables take it minutes.
        only_colours: contrast alone, where the same page has been looked at in the other scheme.
        """
        if opened:
            self.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        self.evaluate(_axe() + "; 0")
        rules = ["color-contrast"] if only_colours else RULES
        found = self.evaluate(
            f"axe.run({{runOnly: {json.dumps(rules)}, resultTypes: ['violations']}})"
            ".then(r => r.violations.map(v => ({id: v.id, help: v.help, "
            "nodes: v.nodes.map(n => n.html.slice(0, 120))})))"
        )
        return [f"{v['id']}: {v['help']}: {v['nodes'][:3]}" for v in found]

    def overflow(self):
        """By how many pixels the page is wider than its window."""
        root = "document.documentElement"
        return self.evaluate(f"{root}.scrollWidth - {root}.clientWidth")

    def errors(self):
        """What went wrong in its scripts."""
        return self._browser.errors()

    def screenshot(self, path, *, whole=True):
        """Write a PNG."""
        shot = self._browser.call("Page.captureScreenshot", captureBeyondViewport=whole,
                                  **({"clip": self._whole()} if whole else {}))  # fmt: skip
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def _whole(self):
        size = self._browser.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
