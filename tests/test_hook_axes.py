"""Where planes belong, from what pycromanager and pymmcore-plus say of them."""

from types import SimpleNamespace

import pytest

from live_restore.hook_axes import Plan, plan_of_events, read_mda_event, read_pycromanager


def metadata(**changes):
    """As pycromanager gives it, in snap mode."""
    fields = {
        "Camera": "Camera",
        "Height": 512,
        "Width": 512,
        "PixelType": None,
        "PixelSize_um": 0.1,
        "ElapsedTime-ms": 12,
        "Axes": {"time": 3, "channel": "561@20%", "z": 2},
        "ZPosition_um_Intended": 0.6,
        "Exposure": 10.0,
    }
    return fields | changes


def test_a_plane_s_place_is_in_pycromanager_s_metadata():
    place = read_pycromanager(metadata())
    assert (place.position, place.time, place.channel, place.z) == ("0", 3, "561@20%", 2)
    assert (place.z_um, place.exposure_ms) == (0.6, 10)
    assert place.origin == "Micro-Manager camera Camera"
    assert place.plan == Plan(pixel_size_um=0.1)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        pytest.param({}, ("0", 0, "camera", 0), id="a single image"),
        pytest.param(None, ("0", 0, "camera", 0), id="no axes at all"),
        pytest.param({"z": "4", "time": "2"}, ("0", 2, "camera", 4), id="sizes as text"),
        pytest.param({"position": "cell A"}, ("cell A", 0, "camera", 0), id="named position"),
        pytest.param({"channel": 1}, ("0", 0, "1", 0), id="numbered channel"),
        pytest.param({"row": 1, "column": 2}, ("0 column2 row1", 0, "camera", 0), id="mosaic"),
    ],
)
def test_axes_that_are_missing_or_others_have_a_place_too(axes, expected):
    place = read_pycromanager(metadata(Axes=axes))
    assert (place.position, place.time, place.channel, place.z) == expected


@pytest.mark.parametrize("value", [None, "", "unknown", 0, -1, "nan", float("inf")])
def test_sizes_that_are_none_are_not_known(value):
    place = read_pycromanager(metadata(PixelSize_um=value, ZPosition_um_Intended=value))
    assert place.plan.pixel_size_um is None
    assert place.z_um in (None, 0, -1)


def test_events_tell_the_plan():
    pycromanager = pytest.importorskip("pycromanager")
    events = pycromanager.multi_d_acquisition_events(
        num_time_points=2, channel_group="Channel", channels=["DAPI", "FITC"],
        z_start=-0.3, z_end=0.3, z_step=0.1, xy_positions=[(0, 0), (1, 1)],
        position_labels=["A", "B"], order="tpcz",
    )  # fmt: skip
    assert plan_of_events(events) == Plan(7, 2, ("DAPI", "FITC"), ("A", "B"), None, 0.1)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([], Plan(), id="none"),
        pytest.param([{}], Plan(1, 1, ("camera",), ("0",)), id="an image"),
        pytest.param(
            [{"axes": {"z": z}} for z in range(3)], Plan(3, 1, ("camera",), ("0",)), id="no heights"
        ),
        pytest.param(
            [{"axes": {"z": z}, "z": 5 - 0.1 * z} for z in range(3)],
            Plan(3, 1, ("camera",), ("0",), None, 0.1),
            id="downwards",
        ),
    ],
)
def test_events_tell_what_they_know(events, expected):
    assert plan_of_events(events) == expected


def test_one_s_own_word_goes_before_the_events_and_planes():
    own = Plan(num_slices=5, z_step_um=0.2)
    assert own.with_fallback(Plan(7, 2, ("A",), ("0",), 0.1, 0.3)) == Plan(
        5, 2, ("A",), ("0",), 0.1, 0.2
    )


STACK = {"channels": ["DAPI"], "z_plan": {"range": 1, "step": 0.5}}
LOOPS = {"interval": 0, "loops": 2}


def places(**sequence):
    useq = pytest.importorskip("useq")
    return [
        read_mda_event(event, {"pixel_size_um": 0.1, "exposure_ms": 7.0, "camera_device": "Cam"})
        for event in useq.MDASequence(**sequence)
    ]


def test_a_plane_s_place_is_in_useq_s_event():
    found = places(**STACK, time_plan=LOOPS, stage_positions=[{"x": 0, "name": "cell"}, {"x": 1}])
    assert [(p.time, p.position, p.z) for p in found] == [
        (t, name, z) for t in range(2) for name in ("cell", "1") for z in range(3)
    ]
    last = found[-1]
    assert last.plan == Plan(3, 2, ("DAPI",), ("cell", "1"), 0.1, 0.5)
    assert last.exposure_ms == 7
    assert last.origin == "Micro-Manager camera Cam"
    assert len({p.sequence for p in found}) == 1
    assert found[0].sequence != places(**STACK)[0].sequence


@pytest.mark.parametrize(
    ("sequence", "positions", "planned"),
    [
        pytest.param({}, ["0"], ("0",), id="where it stands"),
        pytest.param(
            {"stage_positions": [{"x": 0, "name": "P"}, {"x": 1, "name": "P"}]},
            ["P", "P (2)"],
            ("P", "P (2)"),
            id="two of one name",
        ),
        pytest.param(
            {"grid_plan": {"rows": 1, "columns": 2}, "stage_positions": [(0, 0, 0)]},
            ["0 g0", "0 g1"],
            (),
            id="tiles",
        ),
        pytest.param(
            {
                "stage_positions": [
                    {"x": 0},
                    {"x": 1, "sequence": {"grid_plan": {"rows": 1, "columns": 2}}},
                ]
            },
            ["0", "1 g0", "1 g1"],
            (),
            id="tiles at one position",
        ),
    ],
)
def test_stacks_of_different_places_are_told_apart(sequence, positions, planned):
    found = places(**STACK, **sequence)
    assert list(dict.fromkeys(p.position for p in found)) == positions
    assert {p.plan.positions for p in found} == {planned}
    assert len({(p.position, p.z) for p in found}) == len(found)


def test_wells_have_their_names():
    useq = pytest.importorskip("useq")
    plate = useq.WellPlatePlan(plate=96, a1_center_xy=(0, 0), selected_wells=([0, 0], [0, 1]))
    found = places(**STACK, stage_positions=plate)
    assert found[-1].position == "A2"
    assert found[-1].plan.positions == ("A1", "A2")


def test_channels_of_one_name_are_told_apart():
    found = places(channels=[{"config": "A", "group": "one"}, {"config": "A", "group": "two"}])
    assert [p.channel for p in found] == ["A", "A (2)"]


def test_heights_given_one_by_one_have_no_step():
    found = places(channels=["DAPI"], z_plan={"relative": [-1, 0, 3]})
    assert found[0].plan == Plan(3, 1, ("DAPI",), ("0",), 0.1, None)


def test_a_lone_event_has_a_place():
    useq = pytest.importorskip("useq")
    place = read_mda_event(useq.MDAEvent(), {})
    assert (place.position, place.time, place.channel, place.z) == ("0", 0, "camera", 0)
    assert place.plan == Plan()
    assert place.sequence is None


def test_an_event_of_another_maker_with_the_same_attributes_is_read():
    event = SimpleNamespace(
        index={"t": 1, "c": 0, "z": 2},
        pos_name=None,
        channel=SimpleNamespace(config="GFP"),
        sequence=None,
        z_pos=1.5,
        exposure=3,
    )
    place = read_mda_event(event, {})
    assert (place.time, place.channel, place.z, place.z_um, place.exposure_ms) == (
        1,
        "GFP",
        2,
        1.5,
        3,
    )
