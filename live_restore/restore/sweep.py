"""A volume's way through the network, layer by layer or with its planes as they arrive.

Four buffers of features hold everything, and each layer writes where nobody reads any more:

    S   after the head, until the end of the network adds to it
    G   what a group began with
    X   what a block began with, and adds to
    H   between the two convolutions of a block

A layer can write a plane as soon as its input has the next one, so each is one plane behind the
one before it. With the attention known beforehand all layers follow the arriving planes; without
it, each block waits for the last plane before it weighs its channels. Either way each plane is
computed once, from the same numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from live_restore.restore.attention import BorderSums, MeanOfConvolution, Part, channel_weights
from live_restore.restore.graphs import Recorder
from live_restore.restore.operators import Convolution, Operators, zeros
from live_restore.restore.rcan import RCAN3D, ResidualBlock, ResidualGroup

__all__ = ["PreparedNetwork", "Sweep", "sweep_nbytes"]


@dataclass(slots=True)
class _Block:
    reference: ResidualBlock  # float32, where the attention is computed
    first: Convolution
    mean: MeanOfConvolution


class PreparedNetwork:
    """A network ready to be run by one kind of operators.

    Parameters
    ----------
    network : RCAN3D
        float32; not modified.
    operators : Operators
        For the features.
    outer : Operators
        For the first and the last convolution, which deal in intensities: float32, so that these
        aren't rounded to the precision of the features.
    """

    def __init__(self, network: RCAN3D, operators: Operators, outer: Operators) -> None:
        self.operators = operators
        self.outer = outer
        self.num_channels = network.head.out_channels
        device = operators.device
        network = copy.deepcopy(network).to(device).requires_grad_(False)
        self.head = outer.prepare(network.head)
        tail = outer.prepare(network.tail, torch.tensor([0.5], device=device))
        self.tail = Convolution(tail.weight, tail.bias + 0.5)
        self.end = operators.prepare(network.conv)
        self.groups: list[list[_Block]] = []
        self.closing: list[Convolution | None] = []
        for group in network.groups:
            assert isinstance(group, ResidualGroup)  # noqa: S101 - for the type checker
            conv = group.conv
            self.closing.append(None if conv is None else operators.prepare(conv))
            blocks = [block for block in group.blocks if isinstance(block, ResidualBlock)]
            self.groups.append([_prepared(block, operators) for block in blocks])

    @property
    def blocks(self) -> list[_Block]:
        """All of them, in order."""
        return [block for group in self.groups for block in group]

    @torch.inference_mode()
    def means(self, sums: Sequence[Tensor], num_voxels: int) -> list[Tensor]:
        """What each block's attention looks at, from its `BorderSums.total`."""
        return [block.mean(one, num_voxels) for block, one in zip(self.blocks, sums, strict=True)]

    @torch.inference_mode()
    def disagreement(self, one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
        """The largest difference that two poolings make to the weight of any channel, of 1."""
        return max(
            float(
                (channel_weights(block.reference, a) - channel_weights(block.reference, b))
                .abs()
                .max()
            )
            for block, a, b in zip(self.blocks, one, other, strict=True)
        )


def _prepared(block: ResidualBlock, operators: Operators) -> _Block:
    bias = block.conv2.bias
    assert bias is not None  # noqa: S101 - each convolution of the network has one
    mean = MeanOfConvolution(block.conv2.weight, bias)
    return _Block(block, operators.prepare(block.conv1), mean)


def sweep_nbytes(
    num_channels: int, itemsize: int, shape_zyx: tuple[int, int, int], device: torch.device
) -> int:
    """About what a `Sweep` takes of memory: its buffers, and what a convolution works with."""
    z, y, x = shape_zyx
    features = 4 * (z + 2) * num_channels * itemsize
    outer = 2 * (z + 2) * 4
    at_work = 2 * _chunk(z, y * x * num_channels, device) * num_channels * 4
    return y * x * (features + outer + at_work)


def _chunk(num_planes: int, plane_elements: int, device: torch.device) -> int:
    """How many planes one convolution takes at once."""
    return max(1, min(num_planes, _CHUNK_ELEMENTS[device.type] // plane_elements))


# On the processor a few planes of 512 x 512, so that results stay below what glibc maps anew; on a GPU
# what its kernels can count in 32 bits, halos included.
_CHUNK_ELEMENTS = {"cpu": 2**23, "cuda": 2**30}


@dataclass(slots=True)
class _Layer:
    """A layer and how far it is."""

    run: Callable[[int, int], None]  # from plane to plane
    prepare: Callable[[], None] | None = None  # before its first plane
    needs_all: bool = False  # its input whole before its first plane
    done: int = 0


class Sweep:
    """Buffers for volumes of one shape, and how far each layer is with the present one.

    Parameters
    ----------
    network : PreparedNetwork
        What is run.
    shape_zyx : tuple of int
        Of the volumes, or of the tiles of one.
    part : Part, optional
        What of a tile counts for the statistics.

    Attributes
    ----------
    output : Tensor, (Z, Y, X)
        Restored intensities, float32; valid up to what `advance` gave, until `begin`.
    num_given : int
        Planes that were put in since then.
    """

    def __init__(
        self, network: PreparedNetwork, shape_zyx: tuple[int, int, int], part: Part | None = None
    ) -> None:
        self.network = network
        self.shape_zyx = shape_zyx
        nz, ny, nx = shape_zyx
        self._part = part or Part((0, ny), (0, nx))
        channels = network.num_channels
        self._image = zeros(network.outer, 1, shape_zyx)
        self._skip, self._group, self._block, self._hidden = (
            zeros(network.operators, channels, shape_zyx) for _ in range(4)
        )
        self._out = zeros(network.outer, 1, shape_zyx)
        self._chunk = _chunk(nz, ny * nx * channels, network.operators.device)
        device = network.operators.device
        self._sums_of: dict[Part, list[BorderSums]] = {}
        self._given = [torch.empty(channels, device=device) for _ in network.blocks]
        self._pooled: list[Tensor] | None = None
        self._recorder = Recorder(device) if device.type == "cuda" else None
        self._layers: list[_Layer] = []
        self.num_given = 0

    @property
    def output(self) -> Tensor:
        """See above."""
        return self._out[0, 0, 1:-1]

    def put(self, z: int, planes: Tensor) -> None:
        """Take in normalised planes, ``(n, Y, X)``, the first of them plane `z`; `advance` uses them."""
        self.num_given = z + len(planes)
        planes = planes.to(self._image.device, non_blocking=True)
        torch.mul(planes, 2, out=self._image[0, 0, 1 + z : 1 + z + len(planes)]).sub_(1)

    def begin(self, pooled: Sequence[Tensor] | None = None, part: Part | None = None) -> None:
        """Begin with a new volume.

        Parameters
        ----------
        pooled : sequence of Tensor, optional
            What each block's attention looks at, of another volume; otherwise of this one, in
            which case nothing behind the first block is computed before the last plane is there.
        part : Part, optional
            In place of the one before.
        """
        self._part = part or self._part
        if self._part not in self._sums_of:
            self._sums_of[self._part] = self._new_sums()
        self._sums = self._sums_of[self._part]
        self._pooled = None
        if pooled is not None:
            self._pooled = self._given  # which a recording reads
            for own, one in zip(self._given, pooled, strict=True):
                own.copy_(one)
        self._layers = self._build()
        self.num_given = 0

    @torch.inference_mode()
    def advance(self, num_given: int) -> int:
        """Go on with all layers as far as the first `num_given` planes allow; gives how many of `output` are final."""
        ready = num_given
        nz = self.shape_zyx[0]
        for layer in self._layers:
            goal = nz if ready == nz else ready - 1
            while layer.done < goal:
                if layer.done == 0 and layer.prepare is not None:
                    if layer.needs_all and ready < nz:
                        break
                    layer.prepare()
                end = min(goal, layer.done + self._chunk)
                layer.run(layer.done, end)
                layer.done = end
            ready = layer.done
        return ready

    def complete(self) -> None:
        """Go on with all layers to the end: all planes are there."""
        nz = self.shape_zyx[0]
        if self._recorder is None or self._layers[0].done:
            self.advance(nz)
            return
        key = self._part, self._pooled is None
        self._recorder.run(key, self._whole)
        for layer in self._layers:
            layer.done = nz

    def _whole(self) -> None:
        """All layers from the beginning, wherever a recording that failed has left them."""
        for layer in self._layers:
            layer.done = 0
        self.advance(self.shape_zyx[0])

    def pooled(self) -> list[Tensor]:
        """What each block's attention would look at of this volume, when it is done."""
        return self.network.means(self.totals(), self.shape_zyx[0] * self._part.num_pixels)

    def totals(self) -> list[Tensor]:
        """The sums behind `pooled`, to be added to those of other tiles."""
        return [sums.total() for sums in self._sums]

    def _new_sums(self) -> list[BorderSums]:
        channels, device = self.network.num_channels, self.network.operators.device
        return [
            BorderSums(channels, self.shape_zyx[0], self._part, device) for _ in self.network.blocks
        ]

    def _build(self) -> list[_Layer]:
        network, layers = self.network, []
        skip, group, block = self._skip, self._group, self._block
        layers.append(_Layer(self._head))
        base, ahead = skip, iter(self._pooled or ())
        sums = iter(self._sums)
        for blocks, closing in zip(network.groups, network.closing, strict=True):
            x = base
            for one in blocks:
                layers += self._through(one, x, next(sums), next(ahead, None))
                x = block
            if closing is None:
                base = block
                continue
            layers.append(self._closing(closing, base, block, group))
            base = group
        layers.append(self._closing(network.end, skip, base, skip))
        layers.append(_Layer(self._tail))
        return layers

    def _head(self, start: int, end: int) -> None:
        network = self.network
        network.outer.conv(
            _read(self._image, start, end), network.head, _own(self._skip, start, end)
        )

    def _tail(self, start: int, end: int) -> None:
        outer = self.network.outer
        features = _read(self._skip, start, end).to(outer.dtype)
        outer.conv(features, self.network.tail, _own(self._out, start, end))

    def _through(
        self, block: _Block, x: Tensor, sums: BorderSums, pooled: Tensor | None
    ) -> tuple[_Layer, _Layer]:
        """The two layers of a block: ``block buffer = x + weighted(conv2(relu(conv1(x))))``."""
        operators = self.network.operators
        weighted: list[Convolution] = []

        def first(start: int, end: int) -> None:
            out = _own(self._hidden, start, end)
            planes = sums.planes(start, end)
            if not operators.conv_relu(_read(x, start, end), block.first, out, planes):
                sums.add(out, start)

        def weigh() -> None:
            seen = self._mean(block, sums) if pooled is None else pooled
            scale = channel_weights(block.reference, seen)
            weighted[:] = [operators.prepare(block.reference.conv2, scale)]

        def second(start: int, end: int) -> None:
            self._add(self._hidden, weighted[0], x, self._block, start, end)

        return _Layer(first), _Layer(second, weigh, needs_all=pooled is None)

    def _closing(self, conv: Convolution, base: Tensor, x: Tensor, into: Tensor) -> _Layer:
        return _Layer(lambda start, end: self._add(x, conv, base, into, start, end))

    def _add(
        self, x: Tensor, conv: Convolution, base: Tensor, into: Tensor, start: int, end: int
    ) -> None:
        """``into = base + conv(x)``."""
        out = _own(into, start, end)
        if base is not into:
            out.copy_(_own(base, start, end))
        self.network.operators.conv_add(_read(x, start, end), conv, out)

    def _mean(self, block: _Block, sums: BorderSums) -> Tensor:
        return block.mean(sums.total(), self.shape_zyx[0] * self._part.num_pixels)


def _read(buffer: Tensor, start: int, end: int) -> Tensor:
    """What a convolution reads to write planes `start` to `end`."""
    return buffer[:, :, start : end + 2]


def _own(buffer: Tensor, start: int, end: int) -> Tensor:
    """Planes `start` to `end` themselves."""
    return buffer[:, :, start + 1 : end + 1]
