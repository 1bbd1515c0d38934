"""A ConvNeXt as nodes of an ONNX graph; as backbones/convnext.py computes it."""

from typing import Any

from fakedetect_jax.model.backbones.convnext import EPSILON, STEM, Size
from fakedetect_jax.programs.onnx.nodes import Graph, dense
from fakedetect_jax.programs.onnx.vit import gelu


def features(graph: Graph, size: Size, images: str) -> str:
    """Normalised images [N,3,H,W] -> features [N,D]."""
    x = _conv(graph, images, "stem", strides=[STEM, STEM])
    x = _norm(graph, _last(graph, x), "pre_norm")
    for stage, depth in enumerate(size.depths, start=1):
        if stage > 1:
            at = f"layer{stage}_down"
            x = _first(graph, _norm(graph, x, f"{at}.norm"))
            x = _last(graph, _conv(graph, x, f"{at}.conv", strides=[2, 2]))
        for i in range(depth):
            x = _block(graph, x, f"layer{stage}_{i}", size.widths[stage - 1])
    x = graph.add("ReduceMean", x, axes=[1, 2], keepdims=0)
    return _norm(graph, x, "norm")


def _block(graph: Graph, x: str, at: str, width: int) -> str:
    y = _conv(graph, _first(graph, x), f"{at}.conv", pads=[3] * 4, group=width)
    y = _norm(graph, _last(graph, y), f"{at}.norm")
    y = gelu(graph, dense(graph, y, f"backbone.{at}.in"), "exact")
    y = dense(graph, y, f"backbone.{at}.out")
    scale = graph.constant(graph.weight(f"params.backbone.{at}.scale"))
    return graph.add("Add", x, graph.add("Mul", y, scale))


def _conv(graph: Graph, x: str, name: str, **attributes: Any) -> str:
    at = f"params.backbone.{name}."
    kernel = graph.constant(graph.weight(f"{at}kernel").transpose(3, 2, 0, 1))
    bias = graph.constant(graph.weight(f"{at}bias"))
    return graph.add("Conv", x, kernel, bias, **attributes)


def _norm(graph: Graph, x: str, name: str) -> str:
    at = f"params.backbone.{name}."
    parts = [graph.constant(graph.weight(at + leaf)) for leaf in ("scale", "bias")]
    return graph.add("LayerNormalization", x, *parts, epsilon=EPSILON, axis=-1)


def _last(graph: Graph, x: str) -> str:
    """Channels last."""
    return graph.add("Transpose", x, perm=[0, 2, 3, 1])


def _first(graph: Graph, x: str) -> str:
    """Channels first, as ONNX convolves."""
    return graph.add("Transpose", x, perm=[0, 3, 1, 2])
