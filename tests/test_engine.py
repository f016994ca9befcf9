"""Whole volumes through the engine: tiles, streams over time, planes that still come, trouble."""

import numpy as np
import pytest
import torch

from live_restore.errors import RestoreError
from live_restore.restore import certificate as certificates
from live_restore.restore import restorer as restorers
from live_restore.restore.devices import choose_precision
from live_restore.restore.engine import Engine
from live_restore.restore.intensity import IntensityRange
from live_restore.restore.manner import Manner
from live_restore.restore.model import Model, build_network, load_model
from live_restore.restore.normalising import SteadyRange
from live_restore.restore.restorer import RcanRestorer
from live_restore.restore.sweep import Sweep
from live_restore.simulation import SimulatedMicroscope
from live_restore.volume import GrowingVolume
from tests.conftest import make_volume

CPU = torch.device("cpu")
LIVE = Manner(attention="previous", normalisation="running", normalisation_volumes=3)
MICROSCOPE = SimulatedMicroscope(shape_zyx=(12, 72, 80), seed=3)


def uneven(shape=(6, 240, 250)):
    """A volume with a bright and a dark side: where tiles pool alone, they disagree."""
    rng = np.random.default_rng(0)
    rate = np.ones(shape) * np.geomspace(1, 300, shape[2])
    return (rng.poisson(rate * (1 + np.sin(np.arange(shape[1]) / 7) ** 2)[:, None]) + 100).astype(
        "u2"
    )


def restore(manner, data, model=None, **settings):
    with RcanRestorer(model or load_model("default"), "cpu", "float32", "float32", manner) as one:
        return one.restore(make_volume(data, **settings))


def relative(a, b):
    return np.abs(a.data - b.data).max() / np.ptp(b.data)


# --- tiles ---


def test_tiles_give_what_the_whole_volume_gives():
    data = uneven()
    whole = restore(Manner(), data)
    tiled = restore(Manner((6, 160, 160)), data)
    assert whole.model.tile_zyx == (6, 240, 250)
    assert tiled.model.tile_zyx == (6, 138, 143)
    assert whole.model.attention == tiled.model.attention == "whole"
    assert relative(tiled, whole) < 1e-3


def test_tiles_that_pool_alone_do_not():
    data = uneven()
    tiled = restore(Manner((6, 160, 160), attention="tile"), data)
    assert tiled.model.attention == "tile"
    assert relative(tiled, restore(Manner(), data)) > 1e-3


def test_tiles_are_as_large_as_the_memory_allows(tiny_model):
    def plan(memory_bytes):
        architecture = tiny_model.card.architecture
        engine = Engine(tiny_model.network, architecture, CPU, "float32", memory_bytes=memory_bytes)
        return engine.plan((20, 600, 500))

    assert plan(2**31).tile_zyx == (20, 600, 500)
    small, smaller = plan(2**26), plan(2**25)
    assert (20, 600, 500) > small.tile_zyx > smaller.tile_zyx
    assert min(plan(1).tile_zyx[1:]) >= 64  # the narrowest, cut evenly


# --- over time ---


def stack(time, **changes):
    return make_volume(MICROSCOPE.stack(time, "nuclei"), time, **changes)


@pytest.fixture
def live():
    with RcanRestorer(load_model("default"), "cpu", "float32", "float32", LIVE) as restorer:
        yield restorer


def test_each_volume_is_restored_with_what_was_seen_before_it(live):
    first, second, third = (live.restore(stack(time)) for time in range(3))
    assert first.model.attention == "whole"
    assert second.model.attention == third.model.attention == "previous"
    assert second.intensity == first.intensity
    assert third.model.normalisation == "running"


def test_what_is_seen_before_costs_next_to_nothing(live):
    for time in range(3):
        made = live.restore(stack(time))
        alone = restore(Manner(), stack(time).data)
        assert relative(made, alone) < 0.03
        assert np.abs(made.data - alone.data).mean() / np.ptp(alone.data) < 2e-3


def test_a_volume_unlike_the_one_before_is_looked_at_itself(live, caplog):
    live.restore(stack(0))
    data = stack(1).data.astype(float)
    jump = make_volume((100 + 6 * (data - 100).clip(0)).clip(0, 65535).astype("u2"), 1)
    made = live.restore(jump)
    assert made.model.attention == "whole"
    assert "intensities jump" in made.model.remark
    np.testing.assert_allclose(made.data, restore(Manner(), jump.data).data, rtol=1e-3, atol=0.5)


def test_positions_channels_and_acquisitions_know_nothing_of_each_other(live):
    live.restore(stack(0))
    assert (
        live.restore(stack(1, channels=("DAPI", "GFP"), channel="GFP")).model.attention == "whole"
    )
    assert live.restore(stack(1, acquisition="other")).model.attention == "whole"


def test_older_volumes_that_come_late_change_nothing(live):
    live.restore(stack(0))
    live.restore(stack(5))
    before = live.restore(stack(6))
    live.restore(stack(1))
    live.restore(stack(2))
    with RcanRestorer(load_model("default"), "cpu", "float32", "float32", LIVE) as other:
        for time in (0, 5, 6):
            assert other.restore(stack(time)).intensity
        np.testing.assert_array_equal(other.restore(stack(7)).data, live.restore(stack(7)).data)
    assert before.model.attention == "previous"


RANGES = [IntensityRange(100 + n, 200 + 10 * n) for n in range(6)]


def settle_all(mode, num_volumes, ranges=RANGES):
    steady = SteadyRange(mode, num_volumes)
    return [steady.settle(own)[0] for own in ranges]


def test_per_volume_uses_each_volumes_own_range():
    assert settle_all("per_volume", 2) == RANGES


def test_running_uses_the_mean_of_the_last_few_before():
    used = settle_all("running", 2)
    assert used[0] == used[1] == RANGES[0]
    assert used[5] == IntensityRange((103 + 104) / 2, (230 + 240) / 2)


def test_locked_stays_with_the_mean_of_the_first_few():
    used = settle_all("locked", 2)
    assert used[0] == used[1] == RANGES[0]
    assert used[2] == used[5] == IntensityRange(100.5, 205)


@pytest.mark.parametrize(("mode", "follows"), [("running", True), ("locked", False)])
def test_a_jump_is_told_of_once_and_followed_where_asked(mode, follows):
    steady = SteadyRange(mode, 3)
    steady.settle(RANGES[0])
    jumped = IntensityRange(100, 900)
    used, warning = steady.settle(jumped)
    assert "jump" in warning
    assert (used == jumped) is follows
    assert steady.settle(jumped)[1] is None


# --- planes that still come ---


def growing(volume, num_planes):
    data = volume.data.copy()
    data[num_planes:] = 0
    return GrowingVolume(volume.key, volume.info, data, num_planes)


def test_planes_that_came_early_give_the_same_volume(live, monkeypatch):
    live.restore(stack(0))
    with RcanRestorer(load_model("default"), "cpu", "float32", "float32", LIVE) as other:
        other.restore(stack(0))
        wanted = other.restore(stack(1))
    did = [live.advance([growing(stack(1), n)]) for n in range(1, 12)]
    assert did == [n % 4 == 0 for n in range(1, 12)]
    seen, advance = [], Sweep.advance
    monkeypatch.setattr(
        Sweep, "advance", lambda self, n: (seen.append(self.num_given), advance(self, n))[1]
    )
    put = Sweep.put
    starts = []
    monkeypatch.setattr(Sweep, "put", lambda self, z, p: (starts.append(z), put(self, z, p))[1])
    made = live.restore(stack(1))
    assert starts == [8]
    np.testing.assert_array_equal(made.data, wanted.data)
    assert made.model == wanted.model
    assert made.intensity == wanted.intensity


def test_the_first_volume_of_a_stream_waits_for_its_last_plane(live):
    assert not live.advance([growing(stack(0), 8)])
    live.restore(stack(0))
    assert live.advance([growing(stack(1), 8)])


@pytest.mark.parametrize(
    "manner",
    [Manner(), Manner(normalisation="running"), Manner((6, 40, 40), "previous", "running")],
)
def test_nothing_is_begun_where_all_planes_are_needed(manner):
    with RcanRestorer(load_model("default"), "cpu", "float32", "float32", manner) as restorer:
        restorer.restore(stack(0))
        assert not restorer.advance([growing(stack(1), 8)])


def test_what_was_begun_and_never_came_is_dropped(live):
    live.restore(stack(0))
    assert live.advance([growing(stack(1), 8)])
    assert live.advance([growing(stack(2), 8)])
    wanted = live.restore(stack(2))
    np.testing.assert_allclose(wanted.data, restore(LIVE, stack(2).data).data, rtol=0.1, atol=30)
    assert live.restore(stack(3)).model.attention == "previous"


def fails_half_way(monkeypatch, error):
    """What is put from now on arrives, and then fails."""
    put = Sweep.put

    def half(self, z, planes):
        put(self, z, planes)
        raise error

    monkeypatch.setattr(Sweep, "put", half)


def begun_twice(restorer):
    """Three volumes, of which the first is restored and of the others four planes came."""
    data = np.random.default_rng(0).integers(100, 1000, (12, 20, 20)).astype("u2")
    first, second, third = (make_volume(data, time) for time in range(3))
    restorer.restore(first)
    for _ in range(2):
        assert restorer.advance([growing(second, 4), growing(third, 4)])
    return first, second, third


def test_a_volume_that_fails_half_way_at_the_device_waits(tiny_model, monkeypatch, caplog):
    for error in (
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: unspecified launch failure"),
    ):
        caplog.clear()
        with RcanRestorer(tiny_model, "cpu", "float32", "float32", LIVE) as restorer:
            first, second, third = begun_twice(restorer)
            with monkeypatch.context() as failing:
                fails_half_way(failing, error)
                assert not restorer.advance([growing(second, 8), growing(third, 4)])
            assert restorer.advance([growing(second, 9), growing(third, 8)])  # the third alone
            assert caplog.text.count("waits for its last plane") == 1
            made = restorer.restore(second)
        with RcanRestorer(tiny_model, "cpu", "float32", "float32", LIVE) as other:
            other.restore(first)
            np.testing.assert_array_equal(made.data, other.restore(second).data)


def test_nothing_that_was_begun_outlasts_a_mistake(tiny_model, monkeypatch):
    with RcanRestorer(tiny_model, "cpu", "float32", "float32", LIVE) as restorer:
        first, second, third = begun_twice(restorer)
        with monkeypatch.context() as failing:
            fails_half_way(failing, ValueError("no"))
            with pytest.raises(ValueError, match="no"):
                restorer.advance([growing(second, 8), growing(third, 4)])
        made = restorer.restore(second)
        assert not restorer._underway._begun
    with RcanRestorer(tiny_model, "cpu", "float32", "float32", LIVE) as other:
        other.restore(first)
        np.testing.assert_array_equal(made.data, other.restore(second).data)


def test_a_volume_that_there_is_no_memory_to_begin_waits_too(live, monkeypatch, caplog):
    def scarce(engine, shape_zyx):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    live.restore(stack(0))
    with monkeypatch.context() as failing:
        failing.setattr(Engine, "take", scarce)
        assert not live.advance([growing(stack(1), 4)])
    assert not live.advance([growing(stack(1), 8)])
    assert live.advance([growing(stack(2), 4)])
    assert caplog.text.count("waits for its last plane") == 1


def test_what_was_begun_in_one_tile_is_no_tile(tiny_model):
    engine = Engine(tiny_model.network, tiny_model.card.architecture, CPU, "float32")
    data = torch.rand(6, 180, 190)

    def run(pooled, begun=None):
        out = torch.empty(data.shape)
        for where, restored in engine.run(lambda part: data[part], (6, 180, 190), pooled, begun):
            out[where] = restored
        return out

    run(None)
    pooled = engine.pooled
    begun = engine.take((6, 180, 190))
    begun.begin(pooled)
    begun.put(0, data[:4])
    begun.advance(4)
    assert engine.shrink((6, 180, 190))
    assert torch.equal(run(pooled, begun), run(pooled))


# --- precision ---


def scaled(model, factor):
    """The same network in other numbers: its first layer times `factor`, its last divided by it."""
    network = build_network(model.card.architecture)
    network.load_state_dict(model.network.state_dict())
    with torch.no_grad():
        for group in network.groups:
            for block in group.blocks:
                block.conv1.weight *= factor
                block.conv1.bias *= factor
                block.conv2.weight /= factor
    return Model(model.card, network.eval(), model.sha256, model.path)


def test_bfloat16_is_certified_against_float32():
    with RcanRestorer(load_model("default"), "cpu", "bfloat16") as restorer:
        certificate = restorer.certificate
    assert 1e-5 < certificate.largest < 0.03
    assert certificate.mean < 2e-3
    assert abs(certificate.psnr_db) < 0.1
    with RcanRestorer(load_model("default"), "cpu", "float32") as restorer:
        assert restorer.certificate.largest < 1e-4


def test_a_precision_beyond_the_limit_is_refused():
    with (
        pytest.raises(RestoreError, match=r"largest_difference = 1e-06 in \[model\]"),
        RcanRestorer(
            load_model("default"), "cpu", "bfloat16", manner=Manner(largest_difference=1e-6)
        ),
    ):
        pass


def test_an_automatic_precision_beyond_the_limit_becomes_float32(monkeypatch, caplog):
    monkeypatch.setattr(restorers, "choose_precision", lambda precision, device: "bfloat16")
    with RcanRestorer(
        load_model("default"), "cpu", "auto", manner=Manner(largest_difference=1e-4)
    ) as restorer:
        assert restorer.precision == "float32"
    assert "float32 is used" in caplog.text


def test_a_planted_overflow_is_restored_in_float32_and_told_of(monkeypatch, caplog):
    # As on a GPU: float16 ends at 65504. PyTorch's plain convolution does it on the processor too.
    monkeypatch.setattr(restorers, "choose_precision", lambda precision, device: "float16")
    model = load_model("default")
    data = MICROSCOPE.stack(0, "nuclei")[:4, :24, :24]
    bright = data.astype("f4").copy()
    bright[0, 0, 0] = 3e6  # one hot pixel, far beyond the 99.9th percentile
    with RcanRestorer(model, "cpu", "float16", "float32") as restorer:
        fine = restorer.restore(make_volume(data))
        rescued = restorer.restore(make_volume(bright, 1))
    assert (fine.model.precision, fine.model.remark) == ("float16", "")
    assert rescued.model.precision == "float32"
    assert "float16 overflowed: restored in float32" in rescued.model.remark
    monkeypatch.undo()
    np.testing.assert_allclose(rescued.data, restore(Manner(), bright).data, rtol=1e-5)
    assert len([r for r in caplog.records if "overflowed" in r.getMessage()]) == 1


def test_weights_that_saturate_are_caught(monkeypatch):
    monkeypatch.setattr(restorers, "choose_precision", lambda precision, device: "float16")
    model = scaled(load_model("default"), 3e5)
    certified = certificates.certify
    monkeypatch.setattr(restorers, "certify", lambda engine, _: certified(engine, model))
    with (
        pytest.raises(RestoreError, match="than largest_difference"),
        RcanRestorer(model, "cpu", "float16"),
    ):
        pass  # refused at load already
    monkeypatch.setattr(
        restorers, "certify", lambda engine, _: certificates.Certificate(0.0, 0.0, 0.0)
    )
    data = MICROSCOPE.stack(0, "nuclei")[:4, :24, :24]
    with RcanRestorer(model, "cpu", "float16", "float32") as restorer:
        rescued = restorer.restore(make_volume(data))
    assert rescued.model.precision == "float32"
    monkeypatch.undo()
    np.testing.assert_allclose(rescued.data, restore(Manner(), data).data, rtol=1e-3, atol=0.1)


def test_float32_is_chosen_where_the_processor_lacks_bfloat16(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    assert choose_precision("auto", CPU) == "float32"
