"""Finds the published 3D RCAN in a Keras graph, by how its layers are connected.

The order and the names of layers decide nothing, with one exception: `Lambda` layers hold
marshalled Python, which is never executed, so that they are known by their names only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from live_restore.convert.keras_graph import Graph, Layer
from live_restore.convert.structure import Block, Group, Structure
from live_restore.errors import ModelError

__all__ = ["Found", "find_rcan"]

_IN_FRONT = re.compile(r"(lambda_)?standardi[sz]e(_\d+)?")
_AT_THE_END = re.compile(r"(lambda_)?destandardi[sz]e(_\d+)?")
_SCALING = re.compile(r"lambda(_\d+)?")
_UPSCALING = re.compile(r"pixel|shuffle|depth_to_space|upsc|upsampl", re.IGNORECASE)

_UNWANTED = {
    r"(Separable|Depthwise)?Conv[12]D.*|.*Pooling[12]D|ZeroPadding2D": "works on planes (2D); only "
    "3D networks can be represented",
    r"UpSampling\dD|Conv3DTranspose|PixelShuffle|.*DepthToSpace.*": "changes the image's size; only "
    "networks without upscaling can be represented",
    r"Model|Functional|Sequential": "is a model inside the model (as made for several GPUs); save "
    "the inner one by itself",
    r".*Normalization": "normalises features, which the published network doesn't",
}


@dataclass(frozen=True, slots=True)
class Found:
    """The network's layers, and the factor on each block's residual: none if only asking tells."""

    structure: Structure
    residual_scaling: float | None


def find_rcan(graph: Graph) -> Found:
    """The published network's layers in a graph.

    Raises
    ------
    ModelError
        Anything in the graph isn't as published; the message names the layer.
    """
    _check_input(graph.layers[graph.input])
    for layer in graph.layers.values():
        _check_layer(layer)
    return _Search(graph).whole()


def _check_input(layer: Layer) -> None:
    config = layer.config
    shape = config.get("batch_input_shape") or config.get("batch_shape") or config.get("shape")
    if layer.class_name != "InputLayer" or not isinstance(shape, list):
        raise ModelError(f"{layer} is its input, which isn't understood")
    if len(shape) != 5:
        raise ModelError(
            f"{layer} takes images of shape {shape}; only 3D networks, with a shape of "
            "[batch, z, y, x, 1], can be represented"
        )
    if shape[-1] != 1:
        raise ModelError(
            f"{layer} takes {shape[-1]} channels at once; only networks for one can be represented"
        )


def _check_layer(layer: Layer) -> None:
    for pattern, reason in _UNWANTED.items():
        if re.fullmatch(pattern, layer.class_name):
            raise ModelError(f"{layer} {reason}")
    if layer.class_name != "Lambda":
        return
    if _UPSCALING.search(layer.name):
        raise ModelError(
            f"{layer} changes the image's size; only networks without upscaling can be represented"
        )
    if not any(known.fullmatch(layer.name) for known in (_IN_FRONT, _AT_THE_END, _SCALING)):
        raise ModelError(
            f"{layer} holds marshalled Python of unknown meaning, which is never executed; known are "
            "lambda_standardize, lambda_destandardize and lambda_<number>"
        )


class _Search:
    """Walks the graph from its output to its input."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._layers = graph.layers
        self._place = {name: i for i, name in enumerate(graph.layers)}
        self._scalings: dict[str, float | None] = {}

    def whole(self) -> Found:
        body = self._affine(self._graph.output, _AT_THE_END, (0.5, 0.5), "0.5 x + 0.5 at the end")
        tail, body = self._conv(body, 3, "linear", "the last convolution")
        head_output, body = self._sum(body, "the long skip")
        conv, body = self._conv(body, 3, "linear", "the convolution after all groups")
        head, front = self._conv(head_output, 3, "linear", "the first convolution")
        front = self._affine(front, _IN_FRONT, (2.0, -1.0), "2 x - 1 in front")
        if front != self._graph.input:
            self._refuse(front, "the input")
        groups = self._groups(body, head_output)
        if self._layers[tail].config.get("filters") != 1:
            raise ModelError(
                f"{self._layers[tail]} gives {self._layers[tail].config.get('filters')} channels; "
                "only networks that give one can be represented"
            )
        return Found(Structure(head, groups, conv, tail), self._scaling())

    def _groups(self, end: str, start: str) -> tuple[Group, ...]:
        if end == start:
            self._refuse(end, "residual groups")
        if not self._is_conv(self._sum(end, "a residual group or block")[1]):
            return (Group(self._blocks(end, start), None),)
        groups: list[Group] = []
        while end != start:
            skip, residual = self._sum(end, "the skip around a residual group")
            conv, last = self._conv(residual, 3, "linear", "a group's closing convolution")
            groups.insert(0, Group(self._blocks(last, skip), conv))
            end = skip
        if len(groups) == 1:
            raise ModelError(
                f"its only residual group ends with a convolution, layer {groups[0].conv!r}; as "
                "published, the only group of a network has none"
            )
        sizes = {len(group.blocks) for group in groups}
        if len(sizes) > 1:
            raise ModelError(
                f"its residual groups have {sorted(sizes)} blocks; all must have the same number"
            )
        return tuple(groups)

    def _blocks(self, end: str, start: str) -> tuple[Block, ...]:
        if end == start:
            self._refuse(end, "the blocks of a residual group, which has none")
        blocks: list[Block] = []
        while end != start:
            skip, residual = self._sum(end, "the skip around a residual block")
            blocks.insert(0, self._block(residual, skip))
            end = skip
        return tuple(blocks)

    def _block(self, residual: str, start: str) -> Block:
        scaling, weighted = self._scaled(residual)
        layer = self._layers[weighted]
        if layer.class_name != "Multiply" or len(layer.inputs) != 2 or layer.numbers:
            self._refuse(weighted, "the channel attention's product")
        features, gate = sorted(layer.inputs, key=self._place.__getitem__)
        expand, gate = self._conv(gate, 1, "sigmoid", "the channel attention's second convolution")
        reduce, gate = self._conv(gate, 1, "relu", "the channel attention's first convolution")
        if self._pooled(gate) != features:
            self._refuse(gate, f"the mean over {features!r}")
        conv2, inner = self._conv(features, 3, "linear", "a block's second convolution")
        conv1, inner = self._conv(inner, 3, "relu", "a block's first convolution")
        if inner != start:
            self._refuse(inner, f"the block's input {start!r}")
        self._scalings[conv1] = scaling
        return Block(conv1, conv2, reduce, expand)

    def _scaling(self) -> float | None:
        """The factor that all blocks share."""
        factors = set(self._scalings.values())
        if len(factors) > 1:
            raise ModelError(
                f"its blocks scale their residuals differently ({factors}); one factor for all can "
                "be represented"
            )
        return factors.pop()

    def _scaled(self, name: str) -> tuple[float | None, str]:
        """The factor on a residual and what it is applied to; 1 where there is none."""
        layer = self._layers[name]
        if layer.class_name == "Lambda" and _SCALING.fullmatch(name):
            return None, self._only_input(layer)
        if layer.class_name == "Rescaling" and layer.config.get("offset") in (0, 0.0):
            return _number(layer.config.get("scale"), layer), self._only_input(layer)
        if layer.class_name == "Multiply" and len(layer.numbers) == 1:
            return layer.numbers[0], self._only_input(layer)
        return 1.0, name

    def _affine(
        self, name: str, known_as: re.Pattern[str], factors: tuple[float, float], expected: str
    ) -> str:
        layer = self._layers[name]
        config = layer.config
        is_it = layer.class_name == "Lambda" and known_as.fullmatch(name) is not None
        if layer.class_name == "Rescaling":
            is_it = (config.get("scale"), config.get("offset")) == factors
        if not is_it:
            self._refuse(name, expected)
        return self._only_input(layer)

    def _sum(self, name: str, expected: str) -> tuple[str, str]:
        """What an `Add` adds: the skip, which comes earlier, and the residual."""
        layer = self._layers[name]
        if layer.class_name != "Add" or len(layer.inputs) != 2 or layer.numbers:
            self._refuse(name, expected)
        skip, residual = sorted(layer.inputs, key=self._place.__getitem__)
        return skip, residual

    def _is_conv(self, name: str) -> bool:
        return self._layers[name].class_name == "Conv3D"

    def _conv(self, name: str, size: int, activation: str, expected: str) -> tuple[str, str]:
        """A convolution with its activation, in one layer or two: its name and its input."""
        layer = self._layers[self._unshaped(name)]
        found = _activation(layer)
        if layer.class_name in ("Activation", "ReLU"):
            layer = self._layers[self._unshaped(self._only_input(layer))]
            if _activation(layer) != "linear":
                self._refuse(layer.name, expected)
        is_conv = layer.class_name == "Conv3D" or (layer.class_name == "Dense" and size == 1)
        if not is_conv or found != activation:
            self._refuse(name, f"{expected} ({activation})")
        if layer.class_name == "Conv3D":
            _check_conv(layer, size)
        return layer.name, self._unshaped(self._only_input(layer))

    def _pooled(self, name: str) -> str:
        """What the mean over z, y and x is taken of."""
        layer = self._layers[name]
        if layer.class_name != "GlobalAveragePooling3D":
            self._refuse(name, "the mean over z, y and x")
        if layer.config.get("data_format", "channels_last") != "channels_last":
            raise ModelError(f"{layer} has channels first; channels last is expected")
        return self._only_input(layer)

    def _unshaped(self, name: str) -> str:
        """Past layers that give pooled features their three axes of length one."""
        while (layer := self._layers[name]).class_name == "Reshape":
            shape = layer.config.get("target_shape")
            if not isinstance(shape, list) or shape[:-1] != [1, 1, 1]:
                self._refuse(name, "one that gives pooled features the shape (1, 1, 1, channels)")
            name = self._only_input(layer)
        return name

    def _only_input(self, layer: Layer) -> str:
        if len(layer.inputs) != 1:
            raise ModelError(f"{layer} has {len(layer.inputs)} inputs; one is expected")
        return layer.inputs[0]

    def _refuse(self, name: str, expected: str) -> NoReturn:
        raise ModelError(
            f"{self._layers[name]} stands where the published 3D RCAN has {expected}; its graph is "
            "another one and can't be represented"
        )


def _activation(layer: Layer) -> str:
    """Its function's name; ReLU's variants are none that is known."""
    if layer.class_name == "ReLU":
        names = ("max_value", "negative_slope", "threshold")
        return "another" if any(layer.config.get(name) for name in names) else "relu"
    found: Any = layer.config.get("activation") or "linear"
    if isinstance(found, Mapping):
        found = found.get("config")
    return str(found)


def _check_conv(layer: Layer, size: int) -> None:
    config = layer.config
    expected = {
        "kernel_size": [size] * 3,
        "strides": [1] * 3,
        "dilation_rate": [1] * 3,
        "groups": 1,
        "data_format": "channels_last",
    }
    if size > 1:
        expected["padding"] = "same"
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise ModelError(f"{layer} has {key} = {config[key]}; {value} is expected there")


def _number(value: Any, layer: Layer) -> float:
    if isinstance(value, int | float):
        return float(value)
    raise ModelError(f"{layer} scales by {str(value)[:40]}; one number is expected")
