"""Which planes are asked for, without any bridge."""

import itertools
import json
import random
from datetime import UTC, datetime

import pytest

from live_restore.sources.bridge.files import Lag
from live_restore.sources.bridge.plan import read_plan, read_time
from live_restore.sources.bridge.walk import Grid, Place, PlaneSet, Walk, newest_visit

MM_ORDERS = [
    pytest.param(("time", "position", "channel", "z"), id="tpcz"),
    pytest.param(("time", "position", "z", "channel"), id="tpzc"),
    pytest.param(("position", "time", "channel", "z"), id="ptcz"),
]


class Images:
    """What Micro-Manager has of an acquisition, and how often it was asked."""

    def __init__(self, grid, leaves_out=lambda place: False):
        self.grid = grid
        steps = range(grid.num_planes)
        self.order = [p for p in map(grid.place, steps) if not leaves_out(p)]
        self.there = set()
        self.asked = []

    def grow_to(self, number):
        self.there = set(self.order[:number])

    def has(self, place):
        self.asked.append(place)
        return place in self.there

    def next_index(self, axis):
        at = Place._fields.index(axis)
        return max((place[at] + 1 for place in self.there), default=0)

    def newest(self):
        return newest_visit(self.grid, self.next_index, self.has)


def round_of(walk, images, limit=None):
    """One round of asking; the planes that were found, in order."""
    found = []
    walk.begin(len(images.there), images.newest)
    while (place := walk.ask()) is not None:
        exists = images.has(place)
        walk.answer(exists=exists)
        if exists:
            found.append(place)
        if limit is not None and len(found) >= limit:
            break
    return found


def finish(walk, images):
    walk.finish(len(images.there), images.next_index)
    found = []
    while (place := walk.ask()) is not None:
        exists = images.has(place)
        walk.answer(exists=exists)
        found += [place] * exists
    return found


@pytest.mark.parametrize("order", MM_ORDERS)
def test_following_closely_asks_for_nothing_that_is_not_there(order):
    images = Images(Grid(3, 2, 2, 4, order))
    walk = Walk(images.grid, PlaneSet())
    found = []
    for number in range(1, images.grid.num_planes + 1):
        images.grow_to(number)
        found += round_of(walk, images)
    assert found == images.order
    assert walk.is_whole
    misses = [place for place in images.asked if place not in images.there]
    assert not misses


@pytest.mark.parametrize("order", MM_ORDERS)
def test_found_late_the_present_comes_first_and_the_rest_follows(order):
    images = Images(Grid(10, 1, 2, 4, order))
    images.grow_to(50)  # two planes of time 6
    walk = Walk(images.grid, PlaneSet())
    first = round_of(walk, images, limit=2)
    assert {place.time for place in first} == {6}
    images.grow_to(51)
    assert round_of(walk, images, limit=1) == [images.order[50]]  # live before all that is old
    rest = round_of(walk, images)
    assert [place.time for place in rest] == sorted((p.time for p in rest), reverse=True)
    assert len(rest) == 48
    assert round_of(walk, images) == []


def test_a_plane_is_asked_for_once_more_only_when_new_ones_come():
    images = Images(Grid(4, 1, 2, 6), lambda p: p.channel == 1 and p.z != 3)
    walk = Walk(images.grid, PlaneSet())
    images.grow_to(7)
    assert len(round_of(walk, images)) == 7
    asked = len(images.asked)
    for _ in range(10):
        assert round_of(walk, images) == []
    assert len(images.asked) == asked


@pytest.mark.parametrize(
    ("name", "leaves_out"),
    [
        ("no z-stack in the second channel", lambda p: p.channel == 1 and p.z != 3),
        ("no z-stack in the first channel", lambda p: p.channel == 0 and p.z != 0),
        ("the second channel skips frames", lambda p: p.channel == 1 and p.time % 3),
        ("the first channel skips frames", lambda p: p.channel == 0 and p.time % 3),
        ("every other time point is missing", lambda p: p.time % 2),
        ("only the last plane of each stack", lambda p: p.z != 5),
        ("nothing", lambda p: False),
    ],
)
@pytest.mark.parametrize("order", MM_ORDERS)
@pytest.mark.parametrize("step", [1, 5, 1000])
def test_planes_that_never_come_stop_nothing(name, leaves_out, order, step):
    images = Images(Grid(7, 2, 3, 6, order), leaves_out)
    walk = Walk(images.grid, PlaneSet())
    found = []
    for number in range(step, len(images.order) + step, step):
        images.grow_to(number)
        found += round_of(walk, images)
    found += finish(walk, images)
    assert sorted(found) == sorted(images.order), name
    assert len(images.asked) < 20 * images.grid.num_planes  # far from all of them in each round
    assert walk.is_whole or "frames" in name or "time" in name


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_nor_asked_for_twice_with_any_interruption(seed):
    dice = random.Random(seed)
    grid = Grid(dice.randint(1, 6), dice.randint(1, 3), dice.randint(1, 3), dice.randint(1, 5))
    images = Images(grid)
    planes = PlaneSet()
    walk = Walk(grid, planes)
    found = []
    for number in itertools.count(1, dice.randint(1, 9)):
        images.grow_to(number)
        found += round_of(walk, images, limit=dice.choice([0, 1, 3, None]))
        if dice.random() < 0.2:  # a new process
            planes = PlaneSet(planes.ranges())
            walk = Walk(grid, planes)
        if number >= grid.num_planes:
            break
    found += finish(walk, images)
    assert sorted(found) == sorted(images.order)


def test_an_abort_is_told_from_planes_that_were_left_out():
    for number, is_whole in [(40, False), (47, False), (48, True)]:
        images = Images(Grid(4, 1, 2, 6))
        walk = Walk(images.grid, PlaneSet())
        images.grow_to(number)
        round_of(walk, images)
        assert walk.is_whole is is_whole


def test_a_slow_bridge_finishes_what_it_began_and_then_takes_the_newest():
    images = Images(Grid(20, 1, 1, 5))
    walk = Walk(images.grid, PlaneSet())
    found = []
    for number in range(10, 101, 10):  # ten come while three are fetched
        images.grow_to(number)
        found += round_of(walk, images, limit=3)
    stacks = [time for time, _ in itertools.groupby(found, key=lambda place: place.time)]
    whole = [t for t in stacks if len([p for p in found if p.time == t]) == 5]
    assert len(whole) >= 5
    assert max(whole) >= 16
    assert len(found) == 30


def test_a_set_of_planes_survives_as_ranges():
    numbers = [0, 1, 2, 9, 10, 4000]
    planes = PlaneSet()
    assert all(planes.add(number) for number in numbers)
    assert not planes.add(9)
    assert planes.ranges() == [0, 3, 9, 11, 4000, 4001]
    again = PlaneSet(planes.ranges())
    assert len(again) == 6
    assert [n for n in range(5000) if n in again] == numbers


def summary(**changes):
    values = {
        "Prefix": {"type": "STRING", "scalar": "embryo_3"},
        "StartTime": {"type": "STRING", "scalar": "2026-03-04 05:06:07.089 +0000"},
        "ChNames": {"type": "STRING", "array": ["DAPI", "DAPI"]},
        "IntendedDimensions": {
            "type": "PROPERTY_MAP",
            "scalar": {
                axis: {"type": "INTEGER", "scalar": number}
                for axis, number in {"time": 5, "channel": 2, "z": 7}.items()
            },
        },
        "AxisOrder": {"type": "STRING", "array": ["position", "time", "z", "channel"]},
        "z-step_um": {"type": "DOUBLE", "scalar": -0.5},
    }
    values = {key: value for key, value in (values | changes).items() if value is not None}
    return json.dumps({"format": "Micro-Manager Property Map", "map": values})


def test_a_plan_is_read_from_summary_metadata():
    plan = read_plan(summary(), "store")
    assert plan.acquisition.startswith("embryo_3_2026030")
    assert plan.grid == Grid(5, 1, 2, 7, ("position", "time", "z", "channel"))
    assert plan.channels == ("DAPI", "DAPI (2)")
    assert plan.positions == ("0",)
    assert plan.z_step_um == 0.5
    assert plan.started_at == datetime(2026, 3, 4, 5, 6, 7, 89000, UTC)


def test_a_plan_is_the_same_whoever_asks_and_another_for_each_acquisition():
    first = read_plan(summary(), "store").acquisition
    assert read_plan(summary(), "another").acquisition == first
    later = {"type": "STRING", "scalar": "2026-03-04 05:06:08 +0000"}
    assert read_plan(summary(StartTime=later), "store").acquisition != first
    without = read_plan(summary(StartTime=None, Prefix=None), "store").acquisition
    assert without.startswith("store_")
    taken = read_plan(summary(StartTime=None), "store", lambda: "2026-03-04 05:06:09 +0000")
    assert taken.started_at == datetime(2026, 3, 4, 5, 6, 9, tzinfo=UTC)


def test_without_intended_dimensions_there_is_no_plan():
    assert read_plan(summary(IntendedDimensions=None), "Preview") is None
    empty = {"type": "PROPERTY_MAP", "scalar": {}}
    assert read_plan(summary(IntendedDimensions=empty), "Preview") is None


def test_a_time_that_cannot_be_read_is_none():
    assert read_time("Tue Mar 4") is None
    assert read_time(None) is None


@pytest.mark.parametrize(
    ("name", "images_per_s", "fetched_per_s", "backlog", "expected"),
    [
        ("keeps up", 20, 20, 0, False),
        ("found late, catches up", 20, 100, 5000, False),
        ("too fast", 100, 40, 0, True),
        ("slightly too fast: nothing is far behind yet", 41, 40, 0, False),
    ],
)
def test_only_a_bridge_that_cannot_keep_up_is_given_up(
    name, images_per_s, fetched_per_s, backlog, expected
):
    lag = Lag()
    told = [
        lag.note(t / 10, backlog + round(images_per_s * t / 10), round(fetched_per_s * t / 10))
        for t in range(100)
    ]
    assert any(told) is expected, name
    assert not any(told[:30])
