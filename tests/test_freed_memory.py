"""Freed memory goes back to the system."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's alone")

# In a process of its own: another has holes already.
_SCRIPT = """
import psutil
from live_restore.freed_memory import FreedMemory, give_back

def mib():
    return psutil.Process().memory_info().rss / 2**20

def leave_holes():
    # Has freed 200 MiB between pieces that are in use: these.
    return [bytearray(20_000) for _ in range(10_000)][::50]

begin = mib()
in_use = leave_holes()
kept = mib()
give_back()
given = mib()
more = leave_holes()
seldom, always = FreedMemory(every_s=3600), FreedMemory(every_s=0)
before = mib()
seldom.tick()
same = mib()
always.tick()
print(kept - begin, given - begin, before - given, same - given, mib() - given)
"""


def test_what_was_freed_between_pieces_in_use_goes_back():
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True
    )
    kept, given, before, same, after = map(float, done.stdout.split())
    assert kept > 150, "nothing is kept here, so that this test tells nothing"
    assert given < 50
    assert before > 100
    assert same > 100, "it isn't time"
    assert after < 50
