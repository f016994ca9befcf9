"""Volumes that grow, between the source and the restore thread."""

import gc
import weakref

import numpy as np

from live_restore.early import Early
from live_restore.sources.assembler import Assembler
from live_restore.volume import Plane, VolumeKey
from tests.conftest import make_info

KEY = VolumeKey("run", "0", 0, "DAPI")


class Restorer:
    num_workers = 1

    def __init__(self):
        self.seen = []

    def advance(self, growing):
        self.seen.append([(one.key, one.num_planes) for one in growing])
        return False


def feed(assembler, number, num_planes):
    for z in range(num_planes):
        assembler.add(Plane(VolumeKey("run", "0", number, "DAPI"), z, np.zeros((4, 5), "u2")))


def test_growing_volumes_reach_the_restorer_until_they_are_settled():
    restorer, nudges = Restorer(), []
    early = Early(restorer)
    assembler = Assembler(on_growth=early.watch(lambda: nudges.append(1)))
    assembler.start(make_info((3, 4, 5)))
    feed(assembler, 0, 2)
    early.work()
    assert restorer.seen == [[(KEY, 2)]]
    assert len(nudges) == 2
    assembler.add(Plane(KEY, 2, np.zeros((4, 5), "u2")))
    early.work()
    assert restorer.seen[-1] == [(KEY, 0)]  # whole, and waits
    early.settle(KEY)
    early.work()
    assert restorer.seen[-1] == []


def test_a_whole_volume_is_not_kept_in_memory():
    early = Early(Restorer())
    assembler = Assembler(on_growth=early.watch(lambda: None))
    assembler.start(make_info((3, 4, 5)))
    volumes = []
    for z in range(3):
        volumes += assembler.add(Plane(KEY, z, np.zeros((4, 5), "u2")))
    data = weakref.ref(volumes[0].data)
    del volumes
    gc.collect()
    assert data() is None


def test_early_work_that_fails_is_given_up_and_told_of(caplog):
    class Broken(Restorer):
        def advance(self, growing):
            super().advance(growing)
            raise ValueError("no")

    restorer = Broken()
    early = Early(restorer)
    for _ in range(3):
        assert not early.work()
    assert len(restorer.seen) == 1
    assert "wait for their last plane" in caplog.text
