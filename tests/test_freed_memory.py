"""Freed memory goes back to the system."""

import sys

import psutil
import pytest

from live_restore.freed_memory import FreedMemory, give_back

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's alone")
MIB = 2**20


def rss():
    return psutil.Process().memory_info().rss


def leave_holes():
    """Has freed 200 MiB between pieces that are in use: these."""
    pieces = [bytearray(20_000) for _ in range(10_000)]
    return pieces[::50]


def test_what_was_freed_between_pieces_in_use_goes_back():
    before = rss()
    in_use = leave_holes()
    kept = rss()
    assert kept > before + 100 * MIB, "nothing is kept here, so that this test tells nothing"
    give_back()
    assert rss() < kept - 100 * MIB
    assert len(in_use) == 200


def test_it_goes_back_now_and_then():
    seldom, always = FreedMemory(every_s=3600), FreedMemory(every_s=0)
    in_use = leave_holes()
    kept = rss()
    seldom.tick()
    assert rss() > kept - MIB
    always.tick()
    assert rss() < kept - 100 * MIB
    assert len(in_use) == 200
