"""A real browser for the viewer's page: Chromium, headless, drawing on the processor."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ARGUMENTS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]
SCREENSHOTS = Path(os.environ.get("LIVE_RESTORE_SCREENSHOTS", "build/screenshots"))


def find_chromium() -> str:
    """Where Chromium is; skips the test where it isn't, but not in CI."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        message = "needs Chromium (Debian's package chromium)"
        if os.environ.get("LIVE_RESTORE_ALL_CLIENTS"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@contextmanager
def browsing(width: int = 1280, height: int = 800) -> Iterator[Browser]:
    """A browser with one empty page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        try:
            yield Browser(chromium, chromium.new_page(viewport={"width": width, "height": height}))
        finally:
            chromium.close()


class Browser:
    """A page, with what a user does and sees."""

    def __init__(self, chromium, page):
        self.chromium = chromium
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.watch(page)

    def watch(self, page):
        page.on("request", lambda one: self.requests.append(one.url))
        page.on("websocket", lambda one: self.requests.append(one.url))
        page.on("pageerror", lambda one: self.complaints.append(str(one)))
        page.on("console", self.note)

    def note(self, message):
        # Chromium's word on reading pixels back, which only costs time.
        if message.type in ("error", "warning") and "GPU stall" not in message.text:
            self.complaints.append(message.text)

    def open(self, address, channels=2):
        self.page.goto(address)
        self.shows(channels=channels)
        return self

    def shows(self, timeout_s=60, **wanted):
        """Wait until the page says so of itself."""
        marks = "".join(f"[data-{name}='{value}']" for name, value in wanted.items())
        self.page.wait_for_selector(f"body{marks}", timeout=timeout_s * 1000)

    def told(self, name):
        """What the page says of itself."""
        return self.page.get_attribute("body", f"data-{name}")

    def text(self, selector):
        return self.page.inner_text(selector)

    def press(self, key):
        self.page.keyboard.press(key)

    def picture(self):
        """What is seen of the pictures, (rows, columns, 3)."""
        from io import BytesIO

        return np.asarray(
            Image.open(BytesIO(self.page.locator("#stage").screenshot())).convert("RGB")
        )

    def keep(self, name):
        """A screenshot, to be looked at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")
