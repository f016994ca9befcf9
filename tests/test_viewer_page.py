"""The viewer's page in a real browser, with `live-restore view` and a publisher in processes of their own."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.browser import browsing
from tests.conftest import ROOT, wait_for

pytest.importorskip("playwright", reason="needs playwright: pip install playwright")


@contextmanager
def publishing(endpoints, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.publishing", *endpoints, *(str(one) for one in arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def viewing(endpoints, *arguments):
    """`live-restore view`; the page's address."""
    ports = [endpoints[0], "--control", endpoints[1], "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "live_restore", "view", *ports, "--no-browser", *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line
        yield line.split()[2]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def live(endpoints):
    """A page that shows a live publisher."""
    with publishing(endpoints), viewing(endpoints) as address, browsing() as browser:
        yield browser.open(address)
        assert browser.complaints == []


def brightness(picture):
    return float(picture.mean())


def halves(picture):
    middle = picture.shape[1] // 2
    return picture[:, : middle - 20], picture[:, middle + 20 :]


def test_volumes_appear_raw_beside_restored_with_the_truth_beside_them(live):
    live.page.wait_for_selector(".verdict.amber >> nth=1")
    left, right = halves(live.picture())
    assert left.any()
    assert right.any()
    # Raw is noisy: neighbours differ by more.
    roughness = [np.abs(np.diff(one.astype(int), axis=1)).mean() for one in (left, right)]
    assert roughness[0] > 1.5 * roughness[1]
    assert "tubulin" in live.text("#verdicts")
    assert "this model was shown to hold from 3.0" in live.text("#verdicts")
    assert "2.0 times less light would do" in live.text("#verdicts")
    wait_for(lambda: "ms when drawn" in live.text("#brief"), "the age at display")
    brief = live.text("#brief")
    assert "skipped 0" in brief
    assert "test-model on cpu" in brief
    facts = live.text("#facts")
    assert "0.3 × 0.1 × 0.1 µm" in facts
    first = int(live.told("time"))
    wait_for(lambda: int(live.told("time")) > first + 3, "newer volumes")
    assert not live.page.is_visible("#banner")
    live.keep("side-by-side")


def test_following_lets_go_when_the_slider_is_moved_and_comes_back_at_its_end(live):
    wait_for(lambda: int(live.told("time")) >= 4, "some volumes")
    live.press("ArrowLeft")
    live.shows(following="false")
    live.press("ArrowLeft")
    live.press("ArrowLeft")
    assert live.page.get_attribute("#live", "aria-pressed") == "false"
    newest = int(live.page.get_attribute("#time", "max"))
    wait_for(lambda: int(live.page.get_attribute("#time", "max")) > newest + 3, "newer volumes")
    stood_at = live.told("time")
    time.sleep(1)
    assert live.told("time") == stood_at
    assert "now" not in live.text("#brief")
    live.keep("looking-back")
    slider = live.page.locator("#time")
    slider.evaluate("one => { one.value = one.max; one.dispatchEvent(new Event('input')); }")
    live.shows(following="true")
    wait_for(lambda: int(live.told("time")) > newest + 3, "the newest volume")
    live.press("Home")
    live.shows(following="false")
    live.press("End")
    live.shows(following="true")


def test_contrast_gamma_and_colours_change_the_picture(live):
    live.press("ArrowLeft")  # one that stays
    live.shows(following="false")
    live.press("e")
    live.shows(channels=2)
    card = live.page.locator(".channel[data-channel=tubulin]")
    other = live.page.locator(".channel[data-channel=DNA] input[type=checkbox]")
    other.uncheck()
    live.shows(channels=1)
    wait_for(lambda: live.picture().any(), "a picture")
    before = live.picture()
    assert before[..., 2].mean() < 0.5 * before[..., 0].mean()  # yellow
    card.locator("input[type=number] >> nth=1").fill("2000")
    card.locator("input[type=number] >> nth=1").press("Enter")
    wait_for(lambda: brightness(live.picture()) < 0.6 * brightness(before), "a darker picture")
    assert card.locator(".auto").get_attribute("aria-pressed") == "false"
    card.get_by_text("Once").click()
    wait_for(lambda: abs(brightness(live.picture()) / brightness(before) - 1) < 0.1, "it again")
    card.locator(".gamma").fill("0.4")
    wait_for(lambda: brightness(live.picture()) > 1.2 * brightness(before), "a brighter picture")
    card.locator(".swatch").click()
    wait_for(lambda: live.picture()[..., 0].mean() < live.picture()[..., 2].mean(), "cyan")
    live.keep("contrast")


def test_auto_contrast_goes_on_with_each_volume_until_limits_are_set(live):
    card = live.page.locator(".channel[data-channel=DNA]")
    field = card.locator("input[type=number] >> nth=0")
    field.fill("7")
    field.press("Enter")
    at = int(live.told("time"))
    wait_for(lambda: int(live.told("time")) > at + 2, "newer volumes")
    assert field.input_value() == "7"
    live.press("c")
    wait_for(lambda: field.input_value() != "7", "auto contrast")


def test_the_block_turns_under_the_mouse(live):
    live.press("ArrowLeft")
    live.shows(following="false")
    live.press("4")
    wait_for(lambda: live.picture().any(), "the block")
    time.sleep(3)  # until it is drawn in as many pixels as this machine bears
    before = live.picture().astype(int)
    live.keep("block")
    live.page.mouse.move(250, 400)
    live.page.mouse.down()
    live.page.mouse.move(330, 430, steps=4)
    live.page.mouse.up()
    turned = wait_for(
        lambda: (np.abs(live.picture().astype(int) - before) > 30).mean() > 0.01, "other pixels"
    )
    assert turned
    left, right = halves(live.picture())
    assert left.any()
    assert right.any()
    live.keep("block-turned")


def test_views_slices_and_the_divider(live):
    live.press("ArrowLeft")
    live.shows(following="false")
    for key, name in (("2", "ortho"), ("3", "maximum")):
        live.press(key)
        time.sleep(1)
        live.keep(name)
    live.press("2")
    live.page.mouse.click(250, 300)  # slices through there
    time.sleep(0.5)
    live.press("1")
    live.press("e")
    wait_for(
        lambda: "restored" in live.page.locator("[aria-pressed=true]").all_inner_texts()[0].lower(),
        "restored alone",
    )
    time.sleep(0.5)
    before = live.picture()
    live.press("ArrowUp")
    live.press("ArrowUp")
    live.press("ArrowUp")
    wait_for(lambda: live.text("#slice-text") == "10 of 12", "the slice")
    wait_for(lambda: brightness(live.picture()) != brightness(before), "another slice")
    live.press("d")
    time.sleep(1)
    box = live.page.locator("#stage").bounding_box()
    middle, height = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    live.page.mouse.move(middle, height)
    live.page.mouse.down()
    live.page.mouse.move(middle - 200, height, steps=3)
    live.page.mouse.up()
    live.keep("divider")
    column = live.picture()[5, :, :]
    blue = np.flatnonzero((column == (0x5F, 0xB4, 0xFF)).all(axis=1))
    assert abs(blue.mean() - (box["width"] / 2 - 200)) < 4
    # Zoom and pan
    before = live.picture()
    live.page.mouse.wheel(0, -300)
    wait_for(lambda: (live.picture() != before).mean() > 0.05, "a larger picture")
    live.press("f")


def test_settings_are_remembered_and_a_snapshot_is_what_is_seen(live, tmp_path):
    live.press("3")
    live.press("e")
    live.page.locator("#same").check()
    live.page.reload()
    live.shows(channels=2)
    assert live.page.get_attribute("[data-mode=max]", "aria-pressed") == "true"
    assert live.page.get_attribute("[data-layout=restored]", "aria-pressed") == "true"
    assert live.page.locator("#same").is_checked()
    live.press("ArrowLeft")
    live.shows(following="false")
    time.sleep(1)
    with live.page.expect_download() as download:
        live.press("p")
    assert download.value.suggested_filename.startswith("run ")
    download.value.save_as(tmp_path / "shot.png")
    saved = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).astype(int)
    seen = live.picture().astype(int)
    rows = min(len(saved), len(seen))  # the stage ends within a pixel
    saved, seen = saved[:rows], seen[:rows]
    assert (np.abs(saved - seen) > 16).mean() < 0.01


def test_help_opens_and_the_page_asks_nobody_else(live):
    live.press("?")
    assert live.page.is_visible("#help")
    live.keep("help")
    live.press("Escape")
    assert not live.page.is_visible("#help")
    time.sleep(1)
    assert {urlsplit(one).hostname for one in live.requests} == {"127.0.0.1"}
    assert len(live.requests) > 10


def test_a_stopped_daemon_raises_the_banner_and_a_restarted_one_clears_it(endpoints):
    with viewing(endpoints) as address, browsing() as browser:
        browser.page.goto(address)
        browser.page.wait_for_selector("#banner:visible")
        assert "Waiting for a daemon" in browser.text("#banner")
        browser.keep("waiting")
        for _ in range(2):
            with publishing(endpoints):
                browser.shows(channels=2)
                browser.page.wait_for_selector("#banner", state="hidden")
            browser.page.wait_for_selector("#banner:visible", timeout=20_000)
            assert "No word from the daemon" in browser.text("#banner")
        browser.keep("daemon-stopped")


def test_the_end_of_the_viewer_program_is_told(endpoints):
    with browsing() as browser:
        with publishing(endpoints), viewing(endpoints) as address:
            browser.open(address)
        browser.page.wait_for_selector("#banner:visible")
        assert "live-restore view" in browser.text("#banner")


def test_a_skipped_volume_is_told_with_its_reason(endpoints):
    with (
        publishing(endpoints, "--skip-time", 30),
        viewing(endpoints) as address,
        browsing() as browser,
    ):
        browser.open(address)
        wait_for(lambda: "skipped 2" in browser.text("#brief"), "the count")
        assert "the disk was full" in browser.text("#facts")


def test_a_frozen_page_disturbs_nobody_and_catches_up_at_once(endpoints):
    with publishing(endpoints), viewing(endpoints) as address, browsing() as browser:
        browser.open(address)
        mine = renderers()
        # The other one in a browser of its own, driven from a thread of its own.
        told, go_on, done = [], threading.Event(), threading.Event()

        def other():
            with browsing() as second:
                second.open(address)
                told.append(int(second.told("time")))
                go_on.wait(120)
                told.append(int(second.told("time")))
            done.set()

        thread = threading.Thread(target=other)
        thread.start()
        wait_for(lambda: told or not thread.is_alive(), "the other page")
        for process in mine:
            process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(8)
        finally:
            go_on.set()
            done.wait(60)
            for process in mine:
                process.send_signal(signal.SIGCONT)
        thread.join()
        newest = told[1]
        assert newest > told[0] + 10
        wait_for(lambda: int(browser.told("time")) >= newest, "the newest volume")
        browser.page.wait_for_selector("#banner", state="hidden")


def renderers():
    """The processes of all browsers that run pages, but for those that have ended."""
    found = []
    for one in psutil.Process(os.getpid()).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a zombie is one too
            if "--type=renderer" in one.cmdline():
                found.append(one)
    return found
