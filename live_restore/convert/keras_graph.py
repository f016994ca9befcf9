"""The layer graph that a Keras file describes as JSON; read, never executed.

Both ways of writing a layer's inputs are understood: Keras 2's ``[[["name", 0, 0, {}]]]`` and
Keras 3's ``{"args": [{"class_name": "__keras_tensor__", ...}]}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from live_restore.errors import ModelError

__all__ = ["Graph", "Layer", "read_graph"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer, applied once.

    Attributes
    ----------
    name, class_name : str
        As in the file.
    config : mapping
        Its settings.
    inputs : tuple of str
        Names of the layers that it takes its input from.
    numbers : tuple of float
        Numbers among its inputs: the constants of Keras 3's arithmetic.
    """

    name: str
    class_name: str
    config: Mapping[str, Any]
    inputs: tuple[str, ...]
    numbers: tuple[float, ...]

    def __str__(self) -> str:
        return f"layer {self.name!r} ({self.class_name})"


@dataclass(frozen=True, slots=True)
class Graph:
    """Layers by name, inputs before those that use them, with one input and one output."""

    layers: Mapping[str, Layer]
    input: str
    output: str


def read_graph(model_config: str | bytes) -> Graph:
    """The graph behind the attribute ``model_config``.

    Raises
    ------
    ModelError
        Not JSON, not a functional model, layers used more than once, several inputs or outputs.
    """
    try:
        model = json.loads(model_config)
        kind, config = model["class_name"], model["config"]
        if kind not in ("Model", "Functional"):
            raise ModelError(
                f"holds a {kind} model; a functional one is needed, since only that says how its "
                "layers are connected"
            )
        layers = [_layer(entry) for entry in config["layers"]]
        inputs, outputs = (_ends(config[key]) for key in ("input_layers", "output_layers"))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"its model_config isn't understood ({type(error).__name__}: {error}); a whole model "
            "saved by Keras 2 or 3 is needed"
        ) from error
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"has {len(inputs)} inputs and {len(outputs)} outputs; 3D RCAN has one of each"
        )
    ordered = _ordered({layer.name: layer for layer in layers})
    for end in (*inputs, *outputs):
        if end not in ordered:
            raise ModelError(f"its model_config names a layer {end!r} that it doesn't describe")
    return Graph(ordered, inputs[0], outputs[0])


def _layer(entry: Mapping[str, Any]) -> Layer:
    name, class_name = str(entry["name"]), str(entry["class_name"])
    nodes, config = entry["inbound_nodes"], entry["config"]
    if not isinstance(config, dict):
        raise TypeError(f"layer {name!r} has no settings")
    if len(nodes) > 1:
        raise ModelError(
            f"layer {name!r} ({class_name}) is applied {len(nodes)} times; 3D RCAN applies each once"
        )
    found = list(_sources(nodes[0], name)) if nodes else []
    return Layer(
        name,
        class_name,
        config,
        tuple(one for one in found if isinstance(one, str)),
        tuple(one for one in found if isinstance(one, float)),
    )


def _sources(node: Any, name: str) -> Iterator[str | float]:
    """Names and numbers that a layer takes as its input, in order."""
    match node:
        case bool() | None:
            return
        case int() | float():
            yield float(node)
        case {"class_name": "__keras_tensor__", "config": {"keras_history": [str(source), *at]}}:
            _only_output(source, at[:2], name)
            yield source
        case [str(source), int(index), int(tensor), *more]:
            _only_output(source, [index, tensor], name)
            yield source
            yield from _sources({"kwargs": more[0] if more else {}}, name)
        case {"args": [*args], **rest}:
            yield from _sources(args, name)
            yield from _sources(rest, name)
        case {"kwargs": {**kwargs}}:
            for key, value in kwargs.items():
                if key not in ("mask", "training"):
                    raise ModelError(f"layer {name!r} takes the argument {key}, unknown here")
                yield from _sources(value, name)
        case [*nodes]:
            for one in nodes:
                yield from _sources(one, name)
        case {} if not node:
            return
        case _:
            raise ValueError(f"layer {name!r} has an input of unknown form: {str(node)[:80]}")


def _only_output(source: str, indices: list[Any], name: str) -> None:
    if any(index != 0 for index in indices):
        raise ModelError(
            f"layer {name!r} uses output {indices} of {source!r}; 3D RCAN's layers have one each"
        )


def _ends(ends: Any) -> list[str]:
    """Names in ``[["a", 0, 0], ...]``, or in Keras 3's ``["a", 0, 0]`` for a single one."""
    if isinstance(ends[0], str):
        ends = [ends]
    return [str(end[0]) for end in ends]


def _ordered(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """Each layer after its inputs."""
    ordered: dict[str, Layer] = {}
    waiting = dict(layers)
    while waiting:
        ready = [
            name for name, layer in waiting.items() if all(one in ordered for one in layer.inputs)
        ]
        if not ready:
            name = next(iter(waiting))
            raise ModelError(
                f"layer {name!r} gets its input from a layer that isn't there, or a loop"
            )
        for name in ready:
            ordered[name] = waiting.pop(name)
    return ordered
