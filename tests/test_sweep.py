"""The network as the engine runs it, against the network as it is written down."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from live_restore.restore.attention import BorderSums, MeanOfConvolution, Part
from live_restore.restore.devices import open_operators
from live_restore.restore.model import Architecture, build_network
from live_restore.restore.operators import OneDnnOperators, TorchOperators, has_onednn
from live_restore.restore.sweep import PreparedNetwork, Sweep

CPU = torch.device("cpu")
NETWORKS = {
    "one group": {"num_residual_groups": 1, "num_residual_blocks": 2, "residual_scaling": 0.7},
    "two groups": {"num_residual_groups": 2, "num_residual_blocks": 1},
    "three groups": {"num_residual_groups": 3, "num_residual_blocks": 2},
}


def network(name):
    torch.manual_seed(7)
    return build_network(Architecture(num_channels=8, channel_reduction=4, **NETWORKS[name])).eval()


def prepared(name, operators=None):
    operators = operators or open_operators(CPU, torch.float32)
    return PreparedNetwork(network(name), operators, open_operators(CPU, torch.float32))


def image(shape, seed=0):
    torch.manual_seed(seed)
    volume = torch.rand(shape)
    volume[:, : shape[1] // 2] *= 5  # inhomogeneous, so that the attention matters
    return volume


def reference(name, volume):
    with torch.inference_mode():
        return network(name)(volume[None, None])[0, 0]


def swept(sweep, volume, pooled=None, steps=None):
    sweep.begin(pooled)
    start = 0
    for end in steps or [len(volume)]:
        sweep.put(start, volume[start:end])
        sweep.advance(end)
        start = end
    return sweep.output.clone()


OPERATORS = [TorchOperators(CPU, torch.float32)]
if has_onednn(torch.float32):
    OPERATORS.append(OneDnnOperators(torch.float32))


@pytest.mark.parametrize("operators", OPERATORS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 5, 7), (2, 9, 4), (13, 17, 19)])
def test_a_sweep_gives_what_the_network_gives(shape, name, operators):
    volume = image(shape)
    out = swept(Sweep(prepared(name, operators), shape), volume)
    wanted = reference(name, volume)
    assert (out - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.skipif(not has_onednn(torch.bfloat16), reason="no oneDNN with bfloat16 here")
@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_stays_near(name):
    volume = image((13, 17, 19))
    out = swept(Sweep(prepared(name, OneDnnOperators(torch.bfloat16)), volume.shape), volume)
    wanted = reference(name, volume)
    assert (out - wanted).abs().max() < 0.03 * (wanted.max() - wanted.min())
    assert (out - wanted).abs().max() > 1e-5  # it is another arithmetic


@pytest.mark.parametrize("name", NETWORKS)
def test_planes_as_they_arrive_give_the_same_as_all_at_once(name):
    volume = image((37, 12, 11))
    sweep = Sweep(prepared(name), volume.shape)
    swept(sweep, image((37, 12, 11), seed=1))
    pooled = sweep.pooled()
    at_once = swept(sweep, volume, pooled)
    seen = sweep.pooled()
    for steps in ([1, 2, 3, 37], range(1, 38), [20, 36, 37], [37]):
        assert torch.equal(swept(sweep, volume, pooled, steps), at_once)
        assert all(torch.equal(a, b) for a, b in zip(sweep.pooled(), seen, strict=True))


def test_a_volume_leaves_nothing_behind_for_the_next():
    volume = image((9, 12, 11))
    sweep = Sweep(prepared("two groups"), volume.shape)
    first = swept(sweep, volume)
    swept(sweep, 100 * image((9, 12, 11), seed=1))
    sweep.begin(sweep.pooled())
    sweep.put(0, volume[:5])
    sweep.advance(5)  # and is given up
    assert torch.equal(swept(sweep, volume), first)


def test_each_layer_is_one_plane_behind_its_input():
    architecture = Architecture(num_channels=8, channel_reduction=4, **NETWORKS["two groups"])
    volume = image((24, 5, 5))
    sweep = Sweep(prepared("two groups"), volume.shape)
    swept(sweep, volume)
    sweep.begin(sweep.pooled())
    sweep.put(0, volume)
    done = [sweep.advance(z) for z in range(1, 25)]
    radius = architecture.receptive_radius
    assert done == [max(0, z - radius) for z in range(1, 24)] + [24]


def test_without_an_attention_a_block_waits_for_the_last_plane():
    volume = image((24, 5, 5))
    sweep = Sweep(prepared("two groups"), volume.shape)
    sweep.begin()
    sweep.put(0, volume)
    assert [sweep.advance(z) for z in (10, 23, 24)] == [0, 0, 24]


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_the_mean_of_a_convolution_is_known_before_it_runs(shape, seed):
    torch.manual_seed(seed)
    conv = torch.nn.Conv3d(3, 5, 3, padding=1)
    features = torch.randn(1, 3, *shape).contiguous(memory_format=torch.channels_last_3d)
    sums = BorderSums(3, shape[0], Part((0, shape[1]), (0, shape[2])), CPU)
    for z in range(0, shape[0], 2):
        sums.add(features[:, :, z : z + 2], z)
    with torch.inference_mode():
        mean = MeanOfConvolution(conv.weight, conv.bias)(sums.total(), int(np.prod(shape)))
        wanted = conv(features).mean(dim=(0, 2, 3, 4))
    torch.testing.assert_close(mean, wanted, rtol=1e-4, atol=1e-5)


def test_sums_of_parts_add_up_to_those_of_the_whole():
    features = torch.randn(1, 3, 4, 10, 9).contiguous(memory_format=torch.channels_last_3d)

    def total(rows, columns):
        borders = ((rows[0] == 0, rows[1] == 10), (columns[0] == 0, columns[1] == 9))
        sums = BorderSums(3, 4, Part(rows, columns, borders), CPU)
        sums.add(features, 0)
        return sums.total()

    whole = total((0, 10), (0, 9))
    parts = [total(rows, columns) for rows in ((0, 4), (4, 10)) for columns in ((0, 5), (5, 9))]
    torch.testing.assert_close(sum(parts), whole)
