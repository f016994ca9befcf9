"""Finds the published 3D RCAN in the names and shapes of a PyTorch state dict.

A state dict doesn't say how its layers are connected. Its names say which of them belong together:
a block's four convolutions below one name, a group's blocks and closing convolution below another,
as modules that contain each other give them. Where they say anything else, the file is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor

from live_restore.convert.structure import Block, Group, Structure
from live_restore.errors import ModelError

__all__ = ["find_layers", "find_structure"]

_ADVICE = (
    "; expected is the layout of a module per residual block, within a module per residual group"
)

Path = tuple[str, ...]


def find_layers(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Kernel ``(out, in, z, y, x)`` and bias of each layer, by its name, in the file's order.

    Raises
    ------
    ModelError
        Tensors that are no convolution's.
    """
    layers: dict[str, tuple[Tensor, Tensor]] = {}
    for key, kernel in tensors.items():
        name, _, part = key.rpartition(".")
        if part == "bias" and f"{name}.weight" in tensors:
            continue
        if part != "weight" or kernel.dim() not in (2, 5):
            kind = "2D convolutions" if kernel.dim() == 4 else "no convolution of three dimensions"
            raise ModelError(
                f"tensor {key!r} of shape {tuple(kernel.shape)} belongs to {kind}; the published "
                "3D RCAN has 3D convolutions alone"
            )
        if kernel.dim() == 2:  # a linear layer of the attention is a 1×1×1 convolution
            kernel = kernel[..., None, None, None]
        layers[name] = kernel, tensors.get(f"{name}.bias", kernel.new_zeros(kernel.shape[0]))
    return layers


def find_structure(layers: Mapping[str, tuple[Tensor, Tensor]]) -> Structure:
    """Which layer stands where in the published network.

    Parameters
    ----------
    layers : mapping
        From `find_layers`.

    Raises
    ------
    ModelError
        The names and shapes aren't those of a faithful port.
    """
    wide: list[Path] = []
    narrow: list[Path] = []
    heads: list[str] = []
    tails: list[str] = []
    for name, (kernel, _) in layers.items():
        out, into, *size = kernel.shape
        path = tuple(name.split("."))
        if size == [1, 1, 1]:
            narrow.append(path)
        elif size != [3, 3, 3]:
            raise ModelError(f"layer {name!r} has a kernel of {size}; 3×3×3 or 1×1×1 is expected")
        elif into == out:
            wide.append(path)
        else:
            (heads if into < out else tails).append(name)
    if len(heads) != 1 or len(tails) != 1:
        raise ModelError(
            f"has {len(heads)} convolutions to more channels and {len(tails)} to fewer ({heads}, "
            f"{tails}); the published 3D RCAN has one of each, and no upscaling"
        )
    for name, channels in (
        (heads[0], layers[heads[0]][0].shape[1]),
        (tails[0], layers[tails[0]][0].shape[0]),
    ):
        if channels != 1:
            raise ModelError(
                f"layer {name!r} is for images of {channels} channels; only networks for one can "
                "be represented"
            )
    outputs = {path: int(layers[_name(path)][0].shape[0]) for path in narrow}
    blocks = _find_blocks(wide, narrow, outputs)
    groups, body = _find_groups(blocks, wide)
    return Structure(heads[0], groups, body, tails[0])


def _find_blocks(
    wide: list[Path], narrow: list[Path], outputs: Mapping[Path, int]
) -> dict[Path, Block]:
    """Blocks by the names that their layers lie below."""
    blocks: dict[Path, Block] = {}
    left = list(narrow)
    while left:
        root = left[0]
        # The smallest module around this attention's layer that holds wide convolutions too.
        while root and not any(_is_below(path, root) for path in wide):
            root = root[:-1]
        convs = _in_order([path for path in wide if _is_below(path, root)])
        attention = _in_order([path for path in left if _is_below(path, root)])
        # The one that narrows comes first; where both are square, the file's order tells.
        attention.sort(key=lambda path: outputs[path])
        if not root or len(convs) != 2 or len(attention) != 2:
            raise ModelError(
                f"below {_name(root)!r} there are {len(convs)} convolutions and {len(attention)} of "
                f"a channel attention; a residual block has two of each{_ADVICE}"
            )
        blocks[root] = Block(*(_name(path) for path in (*convs, *attention)))
        left = [path for path in left if path not in attention]
    if not blocks:
        raise ModelError("has no channel attention (1×1×1 convolutions), so it isn't an RCAN")
    return blocks


def _find_groups(blocks: Mapping[Path, Block], wide: list[Path]) -> tuple[tuple[Group, ...], str]:
    """Groups in order, and the convolution after all of them."""
    within = {name for block in blocks.values() for name in (block.conv1, block.conv2)}
    closing: dict[tuple[Path, ...], str] = {}
    everything = tuple(_in_order(list(blocks)))
    for path in wide:
        if _name(path) in within:
            continue
        root = path[:-1]
        while not (mine := tuple(one for one in everything if _is_below(one, root))):
            root = root[:-1]
        if mine in closing:
            raise ModelError(
                f"{closing[mine]!r} and {_name(path)!r} both follow the same {len(mine)} blocks; "
                "the published 3D RCAN closes each of several groups, and all of them, with one "
                f"convolution{_ADVICE}"
            )
        closing[mine] = _name(path)
    body = closing.pop(everything, None)
    if body is None:
        raise ModelError(f"has no convolution that follows all residual groups{_ADVICE}")
    if not closing:
        return (Group(tuple(blocks[one] for one in everything), None),), body
    members = sorted((one for mine in closing for one in mine), key=everything.index)
    if tuple(members) != everything or len({len(mine) for mine in closing}) > 1:
        raise ModelError(
            f"its closing convolutions ({', '.join(closing.values())}) follow "
            f"{[len(mine) for mine in closing]} of {len(everything)} blocks; each block belongs to "
            f"one group, and all groups have as many{_ADVICE}"
        )
    ordered = sorted(closing, key=lambda mine: everything.index(mine[0]))
    return tuple(Group(tuple(blocks[b] for b in mine), closing[mine]) for mine in ordered), body


def _in_order(paths: list[Path]) -> list[Path]:
    """Paths as the file has them, which must be the order of the numbers in them."""
    for earlier, later in pairwise(paths):
        for a, b in zip(earlier, later, strict=False):
            if a != b:
                if a.isdecimal() and b.isdecimal() and int(a) > int(b):
                    raise ModelError(
                        f"{_name(later)!r} stands behind {_name(earlier)!r} in the file; the order "
                        "of its layers can't be told"
                    )
                break
    return paths


def _is_below(path: Path, root: Path) -> bool:
    return path[: len(root)] == root


def _name(path: Path) -> str:
    return ".".join(path)
