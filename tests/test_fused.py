"""The network with Triton's kernels, in Triton's interpreter, which only a process of its own may turn on."""

import os
import subprocess
import sys

import pytest
import torch

from live_restore.restore.fused import FusedOperators

pytest.importorskip("triton", reason="Triton isn't made for this system")

SCRIPT = """
import torch
from live_restore.restore import kernels
from live_restore.restore.fused import FusedOperators
from live_restore.restore.model import Architecture, build_network
from live_restore.restore.operators import TorchOperators
from live_restore.restore.sweep import PreparedNetwork, Sweep

if not kernels.is_available():
    raise SystemExit(77)
torch.manual_seed(0)
network = build_network(
    Architecture(num_channels=16, num_residual_groups=2, num_residual_blocks=1, channel_reduction=4)
).eval()
cpu, shape = torch.device("cpu"), (3, 5, 9)
volume = torch.rand(shape)
volume[:, :2] *= 4
asked = []

def choose(kernel, peer):
    peer()
    kernel(kernels.BLOCKS[2])
    asked.append(kernel)
    return kernels.BLOCKS[2]

def swept(operators, pooled=None):
    sweep = Sweep(PreparedNetwork(network, operators, TorchOperators(cpu, torch.float32)), shape)
    sweep.begin(pooled)
    sweep.put(0, volume)
    sweep.complete()
    return sweep.output.clone(), sweep.pooled()

with torch.inference_mode():
    wanted = network(volume[None, None])[0, 0]
fused = FusedOperators(cpu, torch.float16, choose)
out, pooled = swept(fused)
assert (out - wanted).abs().max() < 1e-2 * (wanted.max() - wanted.min()), (out - wanted).abs().max()
assert len(asked) == 2, "each kernel is measured once for planes of a shape"
plain, seen = swept(TorchOperators(cpu, torch.float32))
for one, other in zip(pooled, seen):
    assert (one - other).abs().max() < 1e-2
again, _ = swept(fused, pooled)
assert (again - wanted).abs().max() < 1e-2 * (wanted.max() - wanted.min())
assert len(asked) == 2

def refuse(kernel, peer):
    peer()
    return None

slow, _ = swept(FusedOperators(cpu, torch.float16, refuse))
assert (slow - wanted).abs().max() < 1e-2 * (wanted.max() - wanted.min())
"""


def test_the_network_is_the_same_with_kernels_chosen_or_refused():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("this Triton lacks what the kernels need")
    assert done.returncode == 0, done.stderr


def test_partial_sums_stay_where_a_recording_has_seen_them():
    operators = FusedOperators(torch.device("cpu"), torch.float16)

    def workspace(num_planes):
        return operators._workspace(torch.zeros(1, 16, num_planes, 20, 30))

    places = {num_planes: workspace(num_planes).data_ptr() for num_planes in range(1, 25)}
    assert {n: workspace(n).data_ptr() for n in places} == places
    assert len(set(places.values())) == 6  # 1, 2, 4, ... 32 planes: few, however they come
    assert all(workspace(n).numel() >= n * workspace(1).numel() for n in places)
