"""The lines of ``live-restore listen``, as far as they are about trust."""

import numpy as np

from live_restore.assessment import Assessment, DoseAdvice
from live_restore.cli.listen import _as_text
from live_restore.messages import AssessmentHeader, Header, Statistics, VolumeMessage
from live_restore.volume import utc_now


def line(assessment):
    header = Header(
        session="s",
        type="uint16",
        shape=(2, 3, 4),
        kind="restored",
        sequence=0,
        acquisition="run",
        position="0",
        time=3,
        channel="GFP",
        voxel_size_um=None,
        acquired_at=None,
        received_at=utc_now(),
        published_at=utc_now(),
        statistics=Statistics(min=0, max=1, p0_1=0, p99_9=1),
        assessment=AssessmentHeader.of(assessment) if assessment else None,
    )
    return _as_text(VolumeMessage("t", header, np.zeros((2, 3, 4), np.uint16)))


def test_a_verdict_stands_below_its_volume_with_its_numbers_and_reasons():
    found = Assessment(
        "amber",
        ("the structures are unlike", "2 planes never came"),
        signal=5.27,
        error=0.21,
        error_bound=0.28,
        coverage=0.9,
        num_acquisitions=24,
        dose=DoseAdvice(0.35, 0.5, time_left_s=1200.0, text="2.0 times less light would do"),
    )
    _, verdict, *reasons = line(found).splitlines()
    assert verdict == (
        "    AMBER;  signal 5.3 photoelectrons per voxel;  NRMSE about 0.21, below 0.28 in 90% (n = 24);  "
        "2.0 times less light would do;  bleached in about 20 min"
    )
    assert reasons == ["    - the structures are unlike", "    - 2 planes never came"]


def test_a_bound_without_a_coverage_is_not_told():
    told = line(Assessment("red", ("too dim",), error=0.5, error_bound=0.6))
    assert "NRMSE about 0.50" in told
    assert "0.60" not in told


def test_a_volume_that_nobody_judged_is_one_line():
    assert len(line(None).splitlines()) == 1
