"""The Triton kernels: in Triton's interpreter here, on a GPU where one is.

The interpreter is chosen when Triton is imported, by the environment. So it works in a process of its
own, ``python -m tests.test_kernels``, which prints what it measured; nothing of it is left here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from live_restore.errors import RestoreError
from live_restore.restore import kernels
from live_restore.restore.kernels import (
    BLOCKS,
    Blocks,
    arrange_weight,
    choose,
    conv_relu_sums,
    conv_scaled_add,
    is_available,
    new_workspace,
)

# Rounding once to the dtype is half of this at most; both sides read the same rounded inputs.
TOLERANCES = {torch.float16: 1e-3, torch.bfloat16: 4e-3}
SUM_TOLERANCE = 1e-5  # float32 in another order
CPU = torch.device("cpu")
EVERYWHERE = slice(None), slice(0, 1), slice(-1, None)

BY_TAP = Blocks(4, 32, folds=False, band=2, num_warps=4, num_stages=1)
FOLDED = Blocks(4, 32, folds=True, band=2, num_warps=4, num_stages=1)
ONE_ROW = Blocks(1, 64, folds=True, band=3, num_warps=4, num_stages=1)
CASES = {  # name: (Z, Y, X), channels, blocks, whether there is a scale
    "one small plane": ((1, 5, 7), 16, BY_TAP, True),
    "one small plane, 32 channels": ((1, 5, 7), 32, BY_TAP, False),
    "one small plane, folded": ((1, 5, 7), 16, FOLDED, False),
    "one small plane, 32 channels, folded": ((1, 5, 7), 32, FOLDED, True),
    "bands that don't come out even": ((3, 9, 17), 16, BY_TAP, True),
    "bands that don't come out even, 32 channels": ((3, 9, 17), 32, BY_TAP, False),
    "bands that don't come out even, folded": ((3, 9, 17), 16, FOLDED, True),
    "bands that don't come out even, 32 channels, folded": ((3, 9, 17), 32, FOLDED, False),
    "one column too many": ((2, 16, 33), 16, BY_TAP, True),
    "one column too many, 32 channels": ((2, 16, 33), 32, BY_TAP, True),
    "three columns too many, folded": ((2, 16, 33), 16, FOLDED, True),
    "three columns too many, 32 channels, folded": ((2, 16, 33), 32, FOLDED, True),
    "blocks of one row": ((2, 3, 63), 32, ONE_ROW, True),
    "channels that are no power of two": ((2, 5, 7), 48, FOLDED, True),
    "64 channels": ((1, 5, 7), 64, BY_TAP, True),
    "a single row": ((2, 1, 6), 16, BY_TAP, True),
    "a single column": ((2, 6, 1), 16, FOLDED, True),
    "a single voxel": ((1, 1, 1), 16, BY_TAP, True),
}

needs_triton = pytest.mark.skipif(
    kernels.triton is None or not hasattr(kernels.tl, "gather"),
    reason="Triton 3.3 or newer isn't installed",
)
needs_kernels = pytest.mark.skipif(not is_available(), reason="the kernels don't run here")


class Inputs:
    """Seeded features, weights and what both convolutions should make of them, in float32."""

    def __init__(self, shape_zyx, channels, dtype=torch.float16, device=CPU):
        random = torch.Generator().manual_seed(5)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random).to(device)

        z, y, x = shape_zyx
        self.device, self.dtype, self.channels = device, dtype, channels
        self.shape_zyx, self.shape = shape_zyx, (*shape_zyx, channels)
        self.x = normal(z + 2, y, x, channels).to(dtype)
        self.x[0] = 0  # the volume ends there, and goes on at the other end
        conv_weight = (normal(channels, channels, 3, 3, 3) / (27 * channels) ** 0.5).to(dtype)
        self.conv_weight, self.weight = conv_weight, arrange_weight(conv_weight, dtype)
        self.bias, self.scale = normal(channels), normal(channels).abs()
        self.skip = normal(*self.shape).to(dtype)

    def conv(self, x: Tensor | None = None) -> Tensor:
        x = self.x if x is None else x
        x = x.float().cpu().permute(3, 0, 1, 2)[None]
        weight, bias = self.conv_weight.float().cpu(), self.bias.cpu()
        return functional.conv3d(x, weight, bias, padding=(0, 1, 1))[0].permute(1, 2, 3, 0)

    def relu_and_sums(self, blocks: Blocks) -> tuple[Tensor, Tensor]:
        out = torch.full(self.shape, torch.nan, dtype=self.dtype, device=self.device)
        sums = torch.full((self.shape[0], 9, self.channels), torch.nan, device=self.device)
        workspace = new_workspace(self.shape_zyx, self.channels, self.device, [blocks])
        conv_relu_sums(self.x, self.weight, self.bias, out, sums, workspace.fill_(-9e9), blocks)
        return out.cpu(), sums.cpu()

    def added(self, scale: Tensor | None, blocks: Blocks) -> Tensor:
        into = self.skip.clone()
        conv_scaled_add(self.x, self.weight, self.bias, scale, into, blocks)
        return into.cpu()


def direct_sums(stored: Tensor) -> Tensor:
    values = stored.double()
    regions = [values[:, ys, xs].sum((1, 2)) for ys, xs in product(EVERYWHERE, EVERYWHERE)]
    return torch.stack(regions, 1)


def mean_from_sums(inputs: Inputs, sums: Tensor) -> Tensor:
    """The mean of the convolution of a whole volume whose sums per plane are these."""
    planes = sums.double().reshape(len(sums), 3, 3, -1)
    total = torch.stack([planes.sum(0), planes[0], planes[-1]])
    # A tap before a voxel never reads the last of an axis; one after it never the first.
    signs = torch.tensor([[1, 0, -1], [1, 0, 0], [1, -1, 0]]).double()
    boxes = torch.einsum("aA,bB,cC,ABCi->abci", signs, signs, signs, total).reshape(27, -1)
    of_taps = torch.einsum("ti,tio->o", boxes, inputs.weight.double().cpu())
    num_z, num_y, num_x = inputs.shape_zyx
    return of_taps / (num_z * num_y * num_x) + inputs.bias.double().cpu()


def error(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, of the largest wanted; infinite where something isn't a number."""
    difference = (found.double() - wanted.double()).abs().max() / wanted.abs().max()
    return float(difference.nan_to_num(torch.inf))


def errors_of(inputs: Inputs, blocks: Blocks, has_scale: bool = True) -> dict[str, float]:
    conv = inputs.conv()
    out, sums = inputs.relu_and_sums(blocks)
    scale = inputs.scale if has_scale else None
    wanted = inputs.skip.cpu().float() + conv * (inputs.scale.cpu() if has_scale else 1)
    padded = functional.pad(out, (0, 0, 0, 0, 0, 0, 1, 1))
    return {
        "relu": error(out, torch.relu(conv)),
        "sums": error(sums, direct_sums(out)),
        "mean": error(mean_from_sums(inputs, sums), inputs.conv(padded).mean((0, 1, 2))),
        "add": error(inputs.added(scale, blocks), wanted),
    }


def measure_in_interpreter() -> dict[str, object]:
    found: dict[str, object] = {
        name: errors_of(Inputs(shape_zyx, channels), blocks, has_scale)
        for name, (shape_zyx, channels, blocks, has_scale) in CASES.items()
    }
    inputs = Inputs((1, 3, 4), 16)
    first, again = inputs.relu_and_sums(BY_TAP), inputs.relu_and_sums(BY_TAP)
    found["repeats"] = all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    inputs.x[1, 0, 0, 0] = torch.inf
    inputs.weight[:, 0, ::2] = 0  # infinity times zero
    out, _ = inputs.relu_and_sums(FOLDED)
    found["shows NaN"] = bool(out[0, :2, :2, ::2].isnan().all())
    found["available"] = is_available()
    return found


def compile_for_gpu() -> dict[str, bool]:
    """Whether the kernel, compiled for a card of compute capability 8.0, uses its tensor cores."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    found = {}
    names = kernels._convolve.arg_names
    half, single = dict.fromkeys(("x", "weight", "out"), "*fp16"), ("bias", "scale", "parts")
    types = half | dict.fromkeys(single, "*fp32")
    for blocks, absent in product((BLOCKS[0], BLOCKS[5]), ("scale", "parts")):
        fixed = {"channels": 32, absent: None}
        fixed |= {name: getattr(blocks, name) for name in ("rows", "columns", "folds", "band")}
        signature = {n: "constexpr" if n in fixed else types.get(n, "i32") for n in names}
        aligned = {
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(names)
            if signature[name].startswith("*")
        }
        source = ASTSource(kernels._convolve, signature, fixed, aligned)
        options = {"num_warps": blocks.num_warps, "num_stages": blocks.num_stages}
        options["enable_fp_fusion"] = True
        compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
        found[f"{blocks} without {absent}"] = "mma.sync" in compiled.asm["ptx"]
    return found


def in_a_process(what: str, tmp_path: Path, **environment: str) -> dict:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.test_kernels", what],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return in_a_process("interpret", tmp_path_factory.mktemp("cache"), TRITON_INTERPRET="1")


@needs_triton
def test_both_convolutions_agree_with_pytorch_at_shapes_that_divide_nothing(interpreted):
    found = {(name, what): interpreted[name][what] for name in CASES for what in ("relu", "add")}
    assert {k: v for k, v in found.items() if not v <= TOLERANCES[torch.float16]} == {}


@needs_triton
def test_the_sums_are_those_of_what_was_stored(interpreted):
    found = {name: interpreted[name]["sums"] for name in CASES}
    assert {k: v for k, v in found.items() if not v <= SUM_TOLERANCE} == {}


@needs_triton
def test_the_mean_of_the_next_convolution_follows_from_the_sums(interpreted):
    found = {name: interpreted[name]["mean"] for name in CASES}
    assert {k: v for k, v in found.items() if not v <= SUM_TOLERANCE} == {}


@needs_triton
def test_the_interpreter_repeats_itself_and_hides_no_overflow(interpreted):
    assert {k: interpreted[k] for k in ("repeats", "shows NaN", "available")} == {
        "repeats": True,
        "shows NaN": True,
        "available": True,
    }
    assert "TRITON_INTERPRET" not in os.environ


@needs_triton
def test_the_kernel_compiles_for_a_gpu_and_uses_its_tensor_cores(tmp_path):
    found = in_a_process("compile", tmp_path, TRITON_INTERPRET="0")
    assert len(found) == 4
    assert all(found.values()), found


def test_without_triton_the_module_can_be_imported_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    spec = importlib.util.spec_from_file_location("kernels_alone", kernels.__file__)
    alone = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "kernels_alone", alone)  # dataclasses look there
    spec.loader.exec_module(alone)
    assert not alone.is_available()


def test_without_a_gpu_the_kernels_are_not_available(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not is_available()


def chosen(times: dict[Blocks | None, float]) -> Blocks | None:
    """What is chosen when these are the times; the peer is None, and what has none fails."""

    def kernel(blocks: Blocks) -> Blocks:
        if blocks not in times:
            raise RuntimeError("out of resource: shared memory")
        return blocks

    return choose(kernel, lambda: None, (BY_TAP, FOLDED, ONE_ROW), lambda call: times[call()])


@pytest.mark.parametrize(
    ("times", "fastest"),
    [
        pytest.param({None: 3, BY_TAP: 2, FOLDED: 1, ONE_ROW: 2}, FOLDED, id="a candidate"),
        pytest.param({None: 1, BY_TAP: 2, FOLDED: 3, ONE_ROW: 1}, None, id="the peer"),
        pytest.param({None: 3, ONE_ROW: 2}, ONE_ROW, id="the only one that compiles"),
        pytest.param({None: 3}, None, id="none compiles"),
    ],
)
def test_the_fastest_is_chosen_by_measurement(times, fastest):
    assert chosen(times) == fastest


def test_a_mistake_in_what_is_measured_is_not_taken_for_an_unfit_candidate():
    with pytest.raises(KeyError):
        choose(lambda blocks: blocks, lambda: None, (BY_TAP,), lambda call: {None: 1.0}[call()])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"x": torch.zeros(3, 2, 4, 16)}, "not 16 in torch.float32", id="dtype"),
        pytest.param({"out": torch.zeros(1, 2, 4, 24).half()}, "not 24 in", id="channels"),
        pytest.param({"x": torch.zeros(1, 2, 4, 16).half()}, r"x should be \(3, 2", id="halo"),
        pytest.param({"bias": torch.zeros(16).half()}, "bias should be", id="bias"),
        pytest.param({"sums": torch.zeros(1, 8, 16)}, "sums should be", id="sums"),
        pytest.param({"sums": torch.zeros(1, 16, 9).mT}, "contiguous", id="order of axes"),
        pytest.param({"workspace": torch.zeros(15)}, "make it for the largest", id="workspace"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message):
    given = {
        "x": torch.zeros(3, 2, 4, 16).half(),
        "weight": torch.zeros(27, 16, 16).half(),
        "bias": torch.zeros(16),
        "out": torch.zeros(1, 2, 4, 16).half(),
        "sums": torch.zeros(1, 9, 16),
        "workspace": torch.zeros(16),
    }
    with pytest.raises(RestoreError, match=message):
        conv_relu_sums(**(given | change))


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [16, 32, 48, 64])
@pytest.mark.parametrize("blocks", BLOCKS, ids=str)
def test_each_candidate_agrees_with_pytorch_on_the_gpu(blocks, channels, dtype):
    inputs = Inputs((8, 65, 67), channels, dtype, torch.device("cuda"))
    for has_scale in (True, False):
        found = errors_of(inputs, blocks, has_scale)
        assert found["relu"] <= TOLERANCES[dtype]
        assert found["add"] <= TOLERANCES[dtype]
        assert found["sums"] <= SUM_TOLERANCE
        assert found["mean"] <= 10 * SUM_TOLERANCE  # the mean may be small


@pytest.mark.gpu
@needs_kernels
def test_a_captured_graph_repeats_to_the_last_bit_without_allocating():
    device = torch.device("cuda")
    inputs = Inputs((8, 65, 67), 32, device=device)
    out, sums = torch.empty_like(inputs.skip), torch.empty((8, 9, 32), device=device)
    workspace, into = new_workspace((8, 65, 67), 32, device), inputs.skip.clone()

    def both() -> None:
        conv_relu_sums(inputs.x, inputs.weight, inputs.bias, out, sums, workspace)
        conv_scaled_add(inputs.x, inputs.weight, inputs.bias, inputs.scale, into)

    both()
    wanted = [one.clone() for one in (out, sums, into)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        both()
    for one in (out, sums):
        one.fill_(torch.nan)
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        into.copy_(inputs.skip)
        graph.replay()
    assert torch.cuda.memory_allocated() == before
    assert all(torch.equal(a, b) for a, b in zip(wanted, (out, sums, into), strict=True))


@pytest.mark.gpu
@needs_kernels
def test_more_than_two_to_the_31_elements():
    device = torch.device("cuda")
    if torch.cuda.mem_get_info()[0] < 20e9:
        pytest.skip("needs 20 GB of free GPU memory")
    small = Inputs((3, 12, 40), 64, device=device)
    shape = (9, 2048, 2048, 64)
    x = torch.zeros((shape[0] + 2, *shape[1:]), dtype=torch.float16, device=device)
    x[-5:, -12:, -40:] = small.x
    out = torch.full(shape, torch.nan, dtype=torch.float16, device=device)
    sums = torch.empty((9, 9, 64), device=device)
    workspace = new_workspace(shape[:3], 64, device)
    conv_relu_sums(x, small.weight, small.bias, out, sums, workspace)
    corner = functional.pad(small.x.cpu(), (0, 0, 1, 0, 1, 0))
    wanted = torch.relu(small.conv(corner))[:, 1:, 1:]
    assert error(out[-3:, -12:, -40:].cpu(), wanted) <= TOLERANCES[torch.float16]


@pytest.mark.gpu
@needs_kernels
def test_something_is_chosen_on_the_gpu():
    inputs = Inputs((8, 65, 67), 32, device=torch.device("cuda"))
    x = inputs.x.permute(3, 0, 1, 2)[None]
    weight = inputs.conv_weight.contiguous(memory_format=torch.channels_last_3d)

    def peer() -> None:
        inputs.skip.add_(functional.conv3d(x, weight, padding=(0, 1, 1))[0].permute(1, 2, 3, 0))

    found = choose(lambda blocks: inputs.added(inputs.scale, blocks), peer)
    assert found is None or found in BLOCKS


if __name__ == "__main__":
    torch.set_num_threads(1)
    json.dump(
        {"interpret": measure_in_interpreter, "compile": compile_for_gpu}[sys.argv[1]](), sys.stdout
    )
