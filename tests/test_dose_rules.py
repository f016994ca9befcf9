"""The rules of dose control: no microscope, no clock."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from live_restore.assessment import Assessment, DoseAdvice
from live_restore.errors import ProfileError
from live_restore.guard.control import DoseRules, Evidence, Proposal
from live_restore.profile import DoseSettings, parse_profile


def dose(control="down", **changes):
    return DoseSettings.model_validate({"control": control, "interval_s": 10.0} | changes)


def advice(lowest, verdict="green", **changes):
    return Assessment(verdict, dose=DoseAdvice(0.35, lowest), **changes)


def seen(assessment, taken_with, stream=("0", "DAPI"), acquisition="run", **changes):
    return Evidence(acquisition, stream, assessment, taken_with, **changes)


def twice(rules, assessment, now_s=100.0, taken_with=None, **changes):
    """What is proposed after two volumes that say the same."""
    taken_with = rules.value if taken_with is None else taken_with
    first = rules.judge(seen(assessment, taken_with, **changes), now_s, rules.value)
    assert first is None or first.action == "give back"
    if first is not None:
        return first
    return rules.judge(seen(assessment, taken_with, **changes), now_s, rules.value)


@dataclass
class Case:
    lowest: float | None
    expected: float | None
    settings: dict = field(default_factory=dict)
    own: float = 10.0
    value: float = 10.0
    limits: tuple = (None, None)
    verdict: str = "green"
    more: dict = field(default_factory=dict)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(0.8, 8.0), id="to what is needed"),
        pytest.param(Case(0.2, 7.0), id="down by 0.7 at most"),
        pytest.param(Case(0.86, None), id="within the dead band below"),
        pytest.param(Case(1.14, None, value=5.0), id="within the dead band above"),
        pytest.param(Case(2.0, None, value=5.0), id="down never raises"),
        pytest.param(Case(2.0, 6.0, {"control": "down-up"}, value=5.0), id="up by 1.2 at most"),
        pytest.param(Case(2.0, 10.0, {"control": "down-up"}, value=9.0), id="not above the user's own"),
        pytest.param(Case(2.0, None, {"control": "down-up"}), id="the user's own is the top"),
        pytest.param(Case(2.0, 8.5, {"control": "down-up", "most": 8.5}, value=8.0), id="most"),
        pytest.param(Case(2.0, 8.5, {"control": "down-up"}, value=8.0, limits=(0, 8.5)), id="device's top"),
        pytest.param(Case(0.2, 9.0, {"least": 9.0}), id="least"),
        pytest.param(Case(0.2, 9.5, {"least": 9.0}, limits=(9.5, 20)), id="the device's least"),
        pytest.param(Case(0.2, None, {"least": 12.0}), id="least above the user's own raises nothing"),
        pytest.param(
            Case(0.5, 10 * math.sqrt(0.7), {"device_property": "Laser-Power", "photons_absorbed": 2}),
            id="two-photon power",
        ),
        pytest.param(Case(0.5, 7.0, {"photons_absorbed": 2}), id="two-photon exposure"),
        pytest.param(Case(0.5, None, {"control": "off"}), id="off"),
        pytest.param(Case(0.5, None, verdict="amber"), id="amber lowers nothing"),
        pytest.param(
            Case(2.0, 6.0, {"control": "down-up"}, value=5.0, verdict="amber"), id="amber may raise"
        ),
        pytest.param(Case(0.5, None, verdict="uncalibrated"), id="uncalibrated"),
        pytest.param(Case(None, None), id="no dose can be told"),
        pytest.param(Case(math.nan, None), id="not a number"),
        pytest.param(Case(math.inf, None, {"control": "down-up"}, value=5.0), id="infinite"),
        pytest.param(Case(0.0, None), id="zero"),
        pytest.param(Case(-1.0, None), id="negative"),
        pytest.param(Case(0.5, None, more={"taken_with": 12.0}), id="taken with other light"),
        pytest.param(Case(0.5, None, more={"is_backfill": True}), id="backfill"),
        pytest.param(Case(0.5, None, more={"num_behind": 4}), id="newer ones wait"),
        pytest.param(Case(0.5, None, more={"is_whole": False}), id="planes are missing"),
        pytest.param(Case(0.5, None, own=0.0, value=0.0), id="no light at all"),
    ],
)  # fmt: skip
def test_what_two_agreeing_volumes_propose(case):
    rules = DoseRules(dose(**({"control": "down"} | case.settings)), case.own, *case.limits)
    if case.value != case.own:
        rules.confirm(case.value, 0.0)
    proposal = twice(rules, advice(case.lowest, case.verdict), **case.more)
    if case.expected is None:
        assert proposal is None
        assert not rules.frozen
    else:
        assert proposal.action == "set"
        assert proposal.value == pytest.approx(case.expected)
        assert proposal.before == case.value


def test_one_volume_or_two_that_disagree_change_nothing():
    rules = DoseRules(dose("down-up"), 10.0)
    rules.confirm(5.0, 0.0)
    for lowest in (0.5, 2.0, 0.5, 1.0, 0.5, None, 0.5):
        assert rules.judge(seen(advice(lowest), 5.0), 100.0, 5.0) is None
    assert rules.judge(seen(advice(0.8), 5.0), 100.0, 5.0).value == 4.0  # the larger of the two


def test_nothing_is_asked_while_an_answer_is_awaited_nor_within_the_interval():
    rules = DoseRules(dose(), 10.0)
    assert twice(rules, advice(0.7), 100.0).value == 7.0
    assert twice(rules, advice(0.7), 200.0) is None
    rules.confirm(7.0, 200.0)
    assert twice(rules, advice(0.7), 209.0) is None
    assert rules.remark == "the last change is too recent (interval_s)"
    assert rules.judge(seen(advice(0.7), 7.0), 211.0, 7.0).value == pytest.approx(4.9)


def test_the_most_demanding_of_all_streams_decides():
    rules = DoseRules(dose(), 10.0)
    for stream, lowest in ((("0", "DAPI"), 0.3), (("1", "DAPI"), 0.8), (("0", "FITC"), 0.5)):
        assert rules.judge(seen(advice(lowest), 10.0, stream), 1.0, 10.0) is None
    assert twice(rules, advice(0.3), 2.0) is None  # the others were seen once only
    assert twice(rules, advice(0.8), 2.0, stream=("1", "DAPI")) is None
    proposal = rules.judge(seen(advice(0.5), 10.0, ("0", "FITC")), 3.0, 10.0)
    assert proposal.value == pytest.approx(8.0)
    assert "by 1 DAPI, which needs most" in proposal.reason


def test_a_stream_that_cannot_tell_keeps_the_light_as_it_is():
    rules = DoseRules(dose(), 10.0)
    rules.judge(seen(advice(None), 10.0, ("1", "DAPI")), 1.0, 10.0)
    assert twice(rules, advice(0.3)) is None


def test_streams_of_an_acquisition_that_is_over_count_no_more():
    rules = DoseRules(dose(), 10.0)
    rules.judge(seen(advice(1.0), 10.0, ("9", "DAPI")), 1.0, 10.0)
    assert twice(rules, advice(0.8), acquisition="next").value == 8.0


@pytest.mark.parametrize(
    "flag",
    [
        pytest.param(advice(0.5, "red", reasons=("saturated",)), id="red"),
        pytest.param(advice(0.5, is_valid=False, reasons=("saturated",)), id="invalid"),
        pytest.param(Assessment("red", ("saturated",)), id="red without advice"),
    ],
)
def test_a_red_flag_gives_the_users_value_back_and_freezes_until_switched_on(flag):
    rules = DoseRules(dose(), 10.0)
    rules.confirm(7.0, 0.0)
    proposal = rules.judge(seen(flag, 7.0), 1.0, 7.0)
    assert proposal == Proposal("give back", 10.0, 7.0, "red flag in 0 DAPI: saturated")
    rules.confirm(10.0, 2.0)
    assert twice(rules, advice(0.5), 1000.0) is None
    assert rules.frozen == "red flag in 0 DAPI: saturated"
    rules.switch_on()
    assert twice(rules, advice(0.5), 1000.0).value == 7.0


def test_a_red_flag_with_the_users_own_light_changes_nothing():
    rules = DoseRules(dose(), 10.0)
    assert rules.judge(seen(advice(0.5, "red"), 10.0), 1.0, 10.0) is None
    assert rules.frozen


def test_the_users_hand_wins_and_his_value_is_the_new_limit():
    rules = DoseRules(dose("down-up"), 10.0)
    rules.confirm(7.0, 0.0)
    assert rules.judge(seen(advice(2.0), 7.0), 100.0, 4.0) is None
    assert (rules.own, rules.value) == (4.0, 4.0)
    assert "yourself" in rules.frozen
    assert twice(rules, advice(2.0), 200.0) is None
    rules.switch_on()
    assert twice(rules, advice(2.0), 200.0) is None  # never above what he set
    assert twice(rules, advice(0.5), 200.0).value == pytest.approx(2.8)


def test_what_a_device_rounds_isnt_the_users_hand():
    rules = DoseRules(dose(), 10.0)
    assert twice(rules, advice(0.7)).value == 7.0
    rules.confirm(6.97, 100.0)
    assert rules.judge(seen(advice(0.7), 7.0), 200.0, 7.0) is None
    assert not rules.frozen


def test_dry_run_says_what_it_would_do_and_asks_for_nothing():
    rules = DoseRules(dose("dry-run"), 10.0)
    assert twice(rules, advice(0.5), 100.0) == Proposal(
        "propose",
        7.0,
        10.0,
        "the target is met with 0.50 of the present dose, by 0 DAPI, which needs most",
    )
    assert twice(rules, advice(0.5), 105.0) is None  # not over and over
    assert rules.judge(seen(advice(0.5), 10.0), 111.0, 10.0).action == "propose"
    assert rules.judge(seen(advice(0.5), 8.0), 200.0, 8.0) is None
    assert (rules.own, rules.frozen) == (8.0, "")


def test_switched_off_in_the_profile_the_users_value_comes_back():
    rules = DoseRules(dose(), 10.0)
    rules.confirm(7.0, 0.0)
    assert rules.change(dose("down", least=1.0)) is None
    given_back = rules.change(dose("off"))
    assert (given_back.action, given_back.value) == ("give back", 10.0)
    rules.confirm(10.0, 1.0)
    assert twice(rules, advice(0.5), 100.0) is None
    assert rules.change(dose("down")) is None
    assert twice(rules, advice(0.5), 200.0).value == 7.0


any_value = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, -1.0, 0.5, 1.0])
doses = st.none() | any_value | st.floats(0.05, 3.0)
assessments = st.none() | st.builds(
    Assessment,
    st.sampled_from(["green", "green", "green", "amber", "red", "uncalibrated"]),
    is_valid=st.sampled_from([True, True, True, True, False]),
    dose=st.none() | st.builds(DoseAdvice, st.just(0.35), doses),
)
controls = st.sampled_from(["off", "dry-run", "down", "down-up"])
values = st.floats(0.001, 1000.0)
plans = st.fixed_dictionaries(
    {
        "control": controls,
        "interval_s": st.sampled_from([0.0, 5.0, 60.0]),
        "device_property": st.sampled_from(["exposure", "Laser-Power"]),
        "photons_absorbed": st.sampled_from([1, 2]),
    },
    optional={"least": st.floats(0.001, 20.0), "most": st.floats(20.0, 1000.0)},
)
steps = st.one_of(
    st.tuples(st.just("volume"), assessments, st.integers(0, 2), st.booleans(), st.floats(0, 40)),
    st.tuples(st.just("settled"), st.floats(0.1, 2.5), st.integers(0, 40)),
    st.tuples(st.just("answer")),
    st.tuples(st.just("user"), values),
    st.tuples(st.just("reload"), plans),
    st.tuples(st.just("on")),
    st.tuples(st.just("off")),
)


class Bench:
    """A device with limits, a user, and a clock; checks every proposal as it comes."""

    def __init__(self, plan, own, limits):
        self.settings = DoseSettings.model_validate(plan)
        self.own = self.device = own
        self.limits = limits
        self.rules = DoseRules(self.settings, own, *limits)
        self.now = 0.0
        self.asked = None
        self.set_s = -math.inf

    def do(self, what, *more):
        match what:
            case "volume":
                found, stream, is_late, passed = more
                self.now += passed
                self.judge(found, stream, is_late)
            case "settled":
                lowest, passed = more
                for _ in range(2):
                    self.now += passed
                    self.judge(advice(lowest), 0, False)
            case "answer" if self.asked is not None:
                self.device, self.asked = self.asked, None
                self.rules.confirm(self.device, self.now)
            case "user":
                self.own = self.device = more[0]
                self.asked = None  # a source passes over what was asked for before
                self.rules.take_over(self.device)
            case "reload":
                self.settings = DoseSettings.model_validate(more[0])
                self.take(self.rules.change(self.settings))
            case "on":
                self.rules.switch_on()
            case "off":
                self.take(self.rules.freeze("switched off"))

    def judge(self, found, stream, is_late):
        evidence = seen(found, self.device, ("0", str(stream)), is_backfill=is_late)
        self.take(self.rules.judge(evidence, self.now, self.device))

    def take(self, proposal):
        if proposal is None:
            return
        assert proposal.before == self.rules.value
        if proposal.action == "give back":
            assert proposal.value == self.own
            assert self.rules.frozen or self.settings.control == "dry-run"
            self.asked = proposal.value
            return
        settings, value, (lower, upper) = self.settings, proposal.value, self.limits
        assert settings.control != "off"
        assert not self.rules.frozen
        assert self.now - self.set_s >= settings.interval_s
        self.set_s = self.now
        assert value <= self.own
        assert value <= (settings.most or math.inf) or value < self.device
        assert value <= upper or value < self.device
        assert value >= min(self.device, max(lower, settings.least or 0.0))
        assert 0.7 - 1e-5 <= value / self.device <= 1.2 + 1e-5  # six digits
        if proposal.action == "propose":
            assert settings.control == "dry-run"
            return
        assert settings.control in ("down", "down-up")
        if value > self.device:
            assert settings.control == "down-up"
        self.asked = value


@settings(max_examples=1500, deadline=None)
@given(plans, values, st.floats(0.0, 5.0), st.floats(1000.0, 5000.0), st.lists(steps, max_size=12))
@example(
    {"control": "down-up", "interval_s": 0.0, "device_property": "exposure", "photons_absorbed": 1},
    10.0,
    0.0,
    1000.0,
    [("settled", 0.5, 1), ("answer",), ("settled", 2.0, 1), ("answer",), ("settled", 2.0, 1)],
)
def test_whatever_happens_no_limit_is_passed(plan, own, lower, upper, happened):
    """Stories of up to 12 events, over 10,000 in all: never outside of the limits, above the user's own, twice within the interval."""
    bench = Bench(plan, own, (lower, upper))
    for one in happened:
        bench.do(*one)
        assert bench.rules.own == bench.own


def toml(source, table):
    return f"[source]\n{source}\n[dose]\n{table}\n"


@pytest.mark.parametrize(
    ("source", "table", "expected"),
    [
        ('kind = "simulated"', 'control = "down"', "can't reach the microscope's light"),
        ('kind = "simulated"', 'power_property = "Laser-Power"', "can't reach the microscope's light"),
        ('kind = "micromanager"', 'control = "dry-run"', "sets its exposures itself"),
        ('kind = "acquisition"', 'device_property = "Camera-Exposure"', 'write "exposure"'),
        ('kind = "acquisition"', "least = 5\nmost = 4", "exchange them"),
        (
            'kind = "acquisition"',
            'device_property = "Laser-Power"\npower_property = "Laser-Level"',
            "leave it out",
        ),
    ],
)  # fmt: skip
def test_a_profile_that_asks_for_what_cannot_be_is_refused(tmp_path, source, table, expected):
    with pytest.raises(ProfileError) as caught:
        parse_profile(toml(source, table), tmp_path / "p.toml")
    assert expected in str(caught.value)


def test_a_profile_that_can_be_is_taken(tmp_path):
    table = 'control = "down"\ndevice_property = "Laser-Power"'
    profile = parse_profile(toml('kind = "micromanager"', table), tmp_path / "p.toml")
    assert profile.dose.power == "Laser-Power"
