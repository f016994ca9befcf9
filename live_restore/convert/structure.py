"""Which layer of a foreign file stands where in the published network, and its weights there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from torch import Tensor

from live_restore.errors import ModelError
from live_restore.restore.model import Architecture, Normalisation, build_network

__all__ = ["Block", "Group", "Imported", "Known", "Structure", "assemble"]


@dataclass(frozen=True, slots=True)
class Block:
    """The layers of a residual block, by their names in the file."""

    conv1: str
    conv2: str
    reduce: str
    expand: str


@dataclass(frozen=True, slots=True)
class Group:
    """Blocks and their closing convolution, which the only group of a network doesn't have."""

    blocks: tuple[Block, ...]
    conv: str | None


@dataclass(frozen=True, slots=True)
class Structure:
    """The layers of a whole network, by their names in the file."""

    head: str
    groups: tuple[Group, ...]
    conv: str
    tail: str

    def places(self) -> Iterator[tuple[str, str]]:
        """Each layer's place in `RCAN3D` and its name in the file."""
        yield "head", self.head
        for g, group in enumerate(self.groups):
            for b, block in enumerate(group.blocks):
                at = f"groups.{g}.blocks.{b}"
                yield f"{at}.conv1", block.conv1
                yield f"{at}.conv2", block.conv2
                yield f"{at}.attention.reduce", block.reduce
                yield f"{at}.attention.expand", block.expand
            if group.conv is not None:
                yield f"groups.{g}.conv", group.conv
        yield "conv", self.conv
        yield "tail", self.tail


@dataclass(frozen=True, slots=True)
class Known:
    """What a file says about its model; none where it says nothing."""

    name: str | None = None
    description: str | None = None
    licence: str | None = None
    citation: str | None = None
    training_data: str | None = None
    voxel_size_um: tuple[float, float, float] | None = None
    normalisation: Normalisation | None = None
    quality: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """A foreign file, read.

    Attributes
    ----------
    architecture : Architecture
        The network's size.
    weights : mapping of str to Tensor
        float32, by the names of `RCAN3D`.
    source : str
        Format and file name.
    known : Known
        What else the file says.
    doubts : tuple of str
        What couldn't be checked, for the user to hear.
    """

    architecture: Architecture
    weights: Mapping[str, Tensor]
    source: str
    known: Known = Known()
    doubts: tuple[str, ...] = ()


def assemble(
    structure: Structure,
    read: Callable[[str], tuple[Tensor, Tensor]],
    residual_scaling: float,
) -> tuple[Architecture, dict[str, Tensor]]:
    """The network's size and its weights, each checked against its place.

    Parameters
    ----------
    structure : Structure
        Which layer stands where.
    read : callable
        From a layer's name to its kernel ``(out, in, z, y, x)`` and its bias ``(out,)``.
    residual_scaling : float
        Factor on each block's residual.

    Raises
    ------
    ModelError
        Sizes that `RCAN3D` can't have, or a layer of the wrong shape.
    """
    layers = {place: (name, *read(name)) for place, name in structure.places()}
    _, head, _ = layers["head"]
    _, reduce, _ = layers["groups.0.blocks.0.attention.reduce"]
    channels, hidden = int(head.shape[0]), int(reduce.shape[0])
    if not 0 < hidden <= channels or channels % hidden:
        raise ModelError(
            f"the channel attention narrows {channels} channels to {hidden}, which is no whole "
            "factor; only whole ones can be represented"
        )
    try:
        architecture = Architecture(
            num_channels=channels,
            num_residual_groups=len(structure.groups),
            num_residual_blocks=len(structure.groups[0].blocks),
            channel_reduction=channels // hidden,
            residual_scaling=residual_scaling,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(
            f"{first['loc'][0]} = {first['input']} can't be represented: {first['msg']}"
        ) from error
    weights: dict[str, Tensor] = {}
    with torch.device("meta"):  # shapes alone
        expected = build_network(architecture).state_dict()
    for place, (name, kernel, bias) in layers.items():
        for part, tensor in (("weight", kernel), ("bias", bias)):
            key = f"{place}.{part}"
            if tensor.shape != expected[key].shape:
                raise ModelError(
                    f"layer {name!r}: its {part} is {tuple(tensor.shape)}, and "
                    f"{tuple(expected[key].shape)} is needed at {place} of a network of "
                    f"{channels} channels"
                )
            if not bool(torch.isfinite(tensor).all()):
                raise ModelError(
                    f"layer {name!r}: its {part} holds values that aren't finite numbers; its "
                    "training failed, use an earlier checkpoint"
                )
            weights[key] = tensor.to(torch.float32).contiguous()
    return architecture, weights
