"""Nodes, constants and weights of an ONNX graph that is written by hand."""

from typing import Any

import numpy as np

from fakedetect_jax.run.leaves import Leaves


class Graph:
    """Nodes and constants in the making.

    leaves: the model's variables; make_node: onnx.helper's.
    """

    def __init__(self, leaves: Leaves, make_node):
        self._leaves, self._make_node = leaves, make_node
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def weight(self, name: str) -> np.ndarray:
        """A parameter or statistic as float32."""
        return np.asarray(self._leaves[name], np.float32)

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Adds a constant; returns its name."""
        name = f"constant{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(np.asarray(value, dtype))
        return name

    def integers(self, *values: int) -> str:
        """A constant shape or list of axes."""
        return self.constant(values, np.int64)

    def has(self, name: str) -> bool:
        """Whether there is such a parameter."""
        return name in self._leaves

    def add(
        self,
        kind: str,
        *inputs: str,
        name: str = "",
        output: int = 0,
        **attributes: Any,
    ) -> str:
        """Adds a node of which one output is used; returns that one's name."""
        name = name or f"{kind}{len(self.nodes)}"
        outputs = [""] * output + [name]
        self.nodes.append(self._make_node(kind, list(inputs), outputs, **attributes))
        return name


def dense(graph: Graph, x: str, name: str) -> str:
    """A Dense of that name below params, with its bias where it has one."""
    y = graph.add("MatMul", x, graph.constant(graph.weight(f"params.{name}.kernel")))
    bias = f"params.{name}.bias"
    if not graph.has(bias):
        return y
    return graph.add("Add", y, graph.constant(graph.weight(bias)))
