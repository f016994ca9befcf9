"""Where the demo says that the truth and the verdict turn; and the microscope behind it, that dims."""

import numpy as np

from live_restore.cli.demo_ladder import Rung, turning_points
from live_restore.interfaces import StopSignal
from live_restore.profile import SimulatedSource
from live_restore.sources.simulated import Simulated, relative_dose
from live_restore.volume import Plane


def rung(photons, true, verdict, channel="nuclei"):
    return Rung(channel, photons, true, verdict, "", None, None, None, 0.35)


def test_the_verdict_and_the_truth_turn_where_all_below_is_bad():
    rungs = [
        rung(48, 0.1, "red"),  # a false alarm, not a turning point
        rung(24, 0.2, "green"),
        rung(12, 0.4, "amber"),
        rung(6, 0.5, "red"),
        rung(48, 0.1, "green", "microtubules"),
    ]
    assert turning_points(rungs) == {"nuclei": (12, 6), "microtubules": (None, None)}


def settings(**more):
    return SimulatedSource(
        kind="simulated",
        shape_zyx=(2, 40, 40),
        channels=("nuclei",),
        num_times=4,
        interval_s=0,
        ladder_from=2,
        ladder_start=4.0,
        ladder_step=0.5,
        **more,
    )


def test_a_ladder_begins_with_more_light_and_loses_some_with_each_step():
    assert [relative_dose(settings(), t) for t in range(4)] == [1.0, 1.0, 4.0, 2.0]
    assert relative_dose(settings().model_copy(update={"ladder_from": None}), 9) == 1.0


def test_planes_tell_the_exposure_that_they_were_taken_with():
    with Simulated(settings(exposure_ms=0.01)) as source:
        planes = [e for e in source.events(StopSignal()) if isinstance(e, Plane) and e.z == 0]
    assert np.allclose([plane.exposure_ms for plane in planes], [0.01, 0.01, 0.04, 0.02])
    bright = [float(np.percentile(plane.data, 99.5)) for plane in planes]
    assert bright[2] > bright[3] > bright[1]
