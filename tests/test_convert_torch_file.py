"""PyTorch state dicts: in our layout, in those of faithful ports, and others."""

import io
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from live_restore.convert.torch_file import read_torch
from live_restore.errors import ModelError
from live_restore.restore.model import Architecture, build_network


def network(groups=3, blocks=2, channels=4, reduction=2):
    torch.manual_seed(0)
    return build_network(
        Architecture(
            num_channels=channels,
            num_residual_groups=groups,
            num_residual_blocks=blocks,
            channel_reduction=reduction,
        )
    )


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return file


def nested(state):
    """The layout of lists within lists: ``body.0.body.1.body.3.conv_du.2.weight``."""
    groups = (
        max((int(key.split(".")[1]) for key in state if key.startswith("groups")), default=0) + 1
    )
    blocks = max(int(key.split(".")[3]) for key in state if "blocks" in key) + 1
    parts = {"conv1": "body.0", "conv2": "body.2", "reduce": "body.3.conv_du.0", "expand": "body.3.conv_du.2"}  # fmt: skip
    out = OrderedDict()
    for key, value in state.items():
        place, part = key.rsplit(".", 1)
        words = place.split(".")
        if place in ("head", "tail"):
            name = f"{place}.0"
        elif place == "conv":
            name = f"body.{groups}"
        elif words[-1] == "conv":
            name = f"body.{words[1]}.body.{blocks}"
        else:
            name = f"body.{words[1]}.body.{words[3]}.{parts[words[-1]]}"
        out[f"{name}.{part}"] = value
    return out


def with_linear_attention(state):
    return {k: v.flatten(1) if "attention" in k and v.dim() == 5 else v for k, v in state.items()}


def prefixed(prefix):
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    ("layout", "is_ours"),
    [
        pytest.param(dict, True, id="ours"),
        pytest.param(prefixed("module."), True, id="DataParallel"),
        pytest.param(lambda s: prefixed("model.module.")(nested(s)), False, id="wrapped twice"),
        pytest.param(nested, False, id="lists within lists"),
        pytest.param(with_linear_attention, True, id="linear attention"),
        pytest.param(lambda s: {k: s[k] for k in sorted(s)}, True, id="sorted by name"),
        pytest.param(lambda s: {k: v.double() for k, v in s.items()}, True, id="float64"),
    ],
)
@pytest.mark.parametrize(("groups", "blocks"), [(3, 2), (1, 3), (2, 1), (1, 1)])
def test_a_layout_that_says_what_belongs_together_is_matched(groups, blocks, layout, is_ours):
    expected = network(groups, blocks)
    imported = read_torch(saved(layout(expected.state_dict())), "a.pth")
    assert imported.architecture.num_residual_groups == groups
    assert imported.architecture.num_residual_blocks == blocks
    assert imported.weights.keys() == expected.state_dict().keys()
    for key, tensor in expected.state_dict().items():
        assert torch.equal(imported.weights[key], tensor)
        assert imported.weights[key].dtype == torch.float32
    assert (imported.doubts == ()) == is_ours
    assert imported.source == "PyTorch file a.pth"


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda s: {"epoch": 3, "state_dict": s}, id="state_dict"),
        pytest.param(lambda s: {"model": s, "ema": s, "step": 7}, id="one of two"),
        pytest.param(
            lambda s: {"network": s, "optimizer": {"state": {0: {"m": torch.zeros(1)}}}}, id="other"
        ),
    ],
)
def test_weights_are_found_in_a_checkpoint(wrap):
    state = network().state_dict()
    imported = read_torch(saved(wrap(state)), "a.pth", 0.5)
    assert imported.architecture.residual_scaling == 0.5
    assert torch.equal(imported.weights["conv.weight"], state["conv.weight"])


class Bomb:
    def __reduce__(self):
        return (Path("exploded").touch, ())


def _flat(state):
    """All blocks in one list, and the groups' convolutions in another."""
    return {k.replace("groups.", "g").replace(".blocks.", "b"): v for k, v in state.items()}


def _groups_closed_elsewhere(state):
    """A port that closes groups outside of them: where it adds their skips can't be told."""
    return {
        k.replace("groups.", "closing.") if k.count(".") == 3 and ".conv." in k else k: v
        for k, v in state.items()
    }


def _without(part):
    return lambda state: {k: v for k, v in state.items() if part not in k}


def _with(**extra):
    return lambda state: {**state, **{k.replace("__", "."): v for k, v in extra.items()}}


def _replaced(key, value):
    return lambda state: {**state, key: value}


def _single_closed(_):
    single = network(1, 2).state_dict()
    return {**single, "groups.0.conv.weight": single["conv.weight"], "groups.0.conv.bias": single["conv.bias"]}  # fmt: skip


def _swapped_blocks(state):
    first, second = "groups.0.blocks.0.", "groups.0.blocks.1."
    moved = {k: v for k, v in state.items() if not k.startswith(first)}
    return {**moved, **{k: v for k, v in state.items() if k.startswith(first)}} | {
        k: v for k, v in state.items() if k.startswith(second)
    }


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        pytest.param(_flat, "layout of a module per residual block", id="flat"),
        pytest.param(_groups_closed_elsewhere, "closing", id="closed elsewhere"),
        pytest.param(_without("groups.1.conv"), "each block belongs to one group", id="no closing"),
        pytest.param(_without("attention"), "isn't an RCAN", id="no attention"),
        pytest.param(_without("groups.0.blocks.1"), "all groups have as many", id="uneven groups"),
        pytest.param(lambda s: {k: v for k, v in s.items() if k not in ("conv.weight", "conv.bias")}, "follows all", id="no conv"),
        pytest.param(_single_closed, "both follow the same 2 blocks", id="single group closed"),
        pytest.param(_swapped_blocks, "order of its layers", id="blocks out of order"),
        pytest.param(_with(bn__running_mean=torch.zeros(4)), "no convolution", id="batch norm"),
        pytest.param(_with(up__weight=torch.zeros(32, 4, 3, 3, 3)), "no upscaling", id="pixel shuffle"),
        pytest.param(_replaced("head.weight", torch.zeros(4, 2, 3, 3, 3)), "2 channels", id="two channels"),
        pytest.param(_replaced("head.weight", torch.zeros(4, 1, 3, 3)), "2D", id="2D"),
        pytest.param(_replaced("head.weight", torch.zeros(4, 1, 5, 5, 5)), "kernel of", id="kernel"),
        pytest.param(_replaced("groups.1.blocks.0.conv1.weight", torch.zeros(5, 5, 3, 3, 3)), "is needed at", id="odd width"),
        pytest.param(_replaced("head.bias", torch.full((4,), torch.nan)), "finite", id="NaN"),
        pytest.param(lambda s: {"a": 1, "b": "c"}, "found a, b", id="no weights"),
        pytest.param(lambda s: [1, 2], "found list", id="a list"),
    ],
)  # fmt: skip
def test_what_cannot_be_matched_is_refused_with_the_reason(layout, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        read_torch(saved(layout(network().state_dict())), "bent.pth")
    assert str(caught.value).startswith("bent.pth: ")
    assert "\n" not in str(caught.value)


def _scripted():
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Conv3d(1, 1, 1), torch.zeros(1, 1, 2, 2, 2)), file)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda: saved({"state_dict": Bomb()}).getvalue(), id="code"),
        pytest.param(lambda: pickle.dumps(Bomb()), id="pickle"),
        pytest.param(lambda: saved(network()).getvalue(), id="whole model"),
        pytest.param(lambda: b"", id="empty"),
        pytest.param(lambda: b"hello", id="text"),
        pytest.param(lambda: saved(network().state_dict()).getvalue()[:-500], id="truncated"),
    ],
)
def test_nothing_in_a_file_is_executed(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="not a PyTorch file of weights alone") as caught:
        read_torch(io.BytesIO(content()), "x.pth")
    assert "\n" not in str(caught.value)
    assert not Path("exploded").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused():
    with pytest.raises(ModelError, match="TorchScript"):
        read_torch(io.BytesIO(_scripted()), "x.pt")
