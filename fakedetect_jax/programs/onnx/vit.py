"""A vision transformer as nodes of an ONNX graph; as backbones/vit.py computes it."""

from typing import Any

import numpy as np

from fakedetect_jax.model.backbones.vit import HALVING, STYLES, Size, Turn, rotation
from fakedetect_jax.programs.onnx.nodes import Graph, dense


def features(graph: Graph, size: Size, patches: int, images: str) -> str:
    """Normalised images [N,3,H,W] of so many patches -> features [N,1,D] or [N,D]."""
    style = STYLES[size.style]
    x = _embed(graph, size, images)
    x = _blocks(graph, size, x, "backbone", rotation(size, patches))
    if style.features == "class":
        return graph.add("Gather", x, graph.integers(0), axis=1)
    if style.features == "mean":
        ends = [graph.integers(n) for n in (size.prefix, size.prefix + patches, 1)]
        x = graph.add("Slice", x, *ends)
        return graph.add("ReduceMean", x, axes=[1], keepdims=0)
    return _attention_pool(graph, size, x)


def over_time(graph: Graph, size: Size, x: str, mask: str) -> str:
    """Frames [B,T,F] -> their states, by model/temporal.py's transformer.

    mask: which frames are looked at, bool[B,T].
    """
    mask = graph.add("Unsqueeze", mask, graph.integers(1, 2))
    zero, never = graph.constant(0.0), graph.constant(-1e30)
    unseen = graph.add("Where", mask, zero, never)  # [B,1,1,T]
    return _blocks(graph, size, x, "encoder", None, unseen)


def _blocks(
    graph: Graph, size: Size, x: str, under: str, turn: Turn | None, unseen: str = ""
) -> str:
    """All blocks below a name, and the norm after them."""
    for i in range(size.depth):
        at = f"{under}.block{i}"
        y = _norm(graph, size, x, f"{at}.norm1")
        y = _attention(graph, size, y, y, f"{at}.attention", turn, unseen)
        x = graph.add("Add", x, _scaled(graph, y, f"{at}.scale1"))
        y = _mlp(graph, size, _norm(graph, size, x, f"{at}.norm2"), f"{at}.mlp")
        x = graph.add("Add", x, _scaled(graph, y, f"{at}.scale2"))
    return _norm(graph, size, x, f"{under}.norm")


def _embed(graph: Graph, size: Size, images: str) -> str:
    at = "params.backbone.embed."
    if size.stem:
        x = _stem(graph, size, images)
    else:
        x = _conv(graph, images, f"{at}kernel", strides=[size.patch] * 2)
    x = graph.add("Reshape", x, graph.integers(0, size.width, -1))
    x = graph.add("Transpose", x, perm=[0, 2, 1])
    if graph.has(f"{at}bias"):
        x = graph.add("Add", x, graph.constant(graph.weight(f"{at}bias")))
    before = [
        graph.weight(at + name)
        for name in ("class_token", "registers")
        if graph.has(at + name)
    ]
    if graph.has(f"{at}positions"):
        rows = graph.weight(f"{at}positions")
        own = STYLES[size.style].class_token
        before = [before[0] + rows[:1], *before[1:]] if own else before
        x = graph.add("Add", x, graph.constant(rows[own:]))
    if before:
        rows = graph.constant(np.concatenate(before))
        first = graph.integers(0), graph.integers(1)
        images = graph.add("Slice", graph.add("Shape", x), *first)
        shape = graph.integers(size.prefix, size.width)
        shape = graph.add("Concat", images, shape, axis=0)
        x = graph.add("Concat", graph.add("Expand", rows, shape), x, axis=1)
    if STYLES[size.style].pre_norm:
        x = _norm(graph, size, x, "backbone.embed.pre_norm")
    return x


def _conv(graph: Graph, x: str, name: str, **attributes: Any) -> str:
    kernel = graph.constant(graph.weight(name).transpose(3, 2, 0, 1))
    return graph.add("Conv", x, kernel, **attributes)


def _stem(graph: Graph, size: Size, x: str) -> str:
    """Normalised images [N,3,H,W] -> [N,D,h,w], by convolutions that halve the side."""
    at = "params.backbone.embed.stem."
    (above, below), (left, right) = HALVING[1]
    pads = [above, left, below, right]
    for i, channels in enumerate(size.stem):
        # A 3x3 kernel of step 2 lacks one row below an even side, one at its right.
        x = _conv(graph, x, f"{at}conv{i}.kernel", strides=[2, 2], pads=pads)
        pads = [0, 0, 1, 1]
        if i:
            bias = graph.weight(f"{at}conv{i}.bias").reshape(channels, 1, 1)
            x = graph.add("Add", x, graph.constant(bias))
        x = gelu(graph, x, STYLES[size.style].gelu)
    kernel = graph.weight(f"{at}projection.kernel").T[:, :, None, None]
    bias = graph.constant(graph.weight(f"{at}projection.bias"))
    return graph.add("Conv", x, graph.constant(kernel), bias)


def _norm(graph: Graph, size: Size, x: str, name: str) -> str:
    parts = [
        graph.constant(graph.weight(f"params.{name}.{p}")) for p in ("scale", "bias")
    ]
    epsilon = STYLES[size.style].epsilon
    return graph.add("LayerNormalization", x, *parts, epsilon=epsilon, axis=-1)


def _scaled(graph: Graph, x: str, name: str) -> str:
    if not graph.has(f"params.{name}"):
        return x
    return graph.add("Mul", x, graph.constant(graph.weight(f"params.{name}")))


def _attention(
    graph: Graph,
    size: Size,
    asking: str,
    asked: str,
    at: str,
    turn: Turn | None = None,
    unseen: str = "",
) -> str:
    each = size.width // size.heads

    def heads(x: str, name: str, perm: list[int], turned: bool) -> str:
        y = dense(graph, x, f"{at}.{name}")
        y = graph.add("Reshape", y, graph.integers(0, -1, size.heads, each))
        y = _turned(graph, y, turn) if turned and turn else y
        return graph.add("Transpose", y, perm=perm)

    query = heads(asking, "query", [0, 2, 1, 3], True)
    key = heads(asked, "key", [0, 2, 3, 1], True)
    value = heads(asked, "value", [0, 2, 1, 3], False)
    query = graph.add("Mul", query, graph.constant(each**-0.5))
    likeness = graph.add("MatMul", query, key)
    if unseen:
        likeness = graph.add("Add", likeness, unseen)
    weight = graph.add("Softmax", likeness, axis=-1)
    y = graph.add("Transpose", graph.add("MatMul", weight, value), perm=[0, 2, 1, 3])
    y = graph.add("Reshape", y, graph.integers(0, -1, size.width))
    return dense(graph, y, f"{at}.out")


def _turned(graph: Graph, x: str, turn: Turn) -> str:
    """Each feature of the first half with its partner in the second, turned."""
    cosine, sine = map(np.asarray, turn)
    half = cosine.shape[-1] // 2
    ends = [(0, half), (half, 2 * half)]
    first, second = (
        graph.add("Slice", x, *(graph.integers(n) for n in (*end, 3))) for end in ends
    )
    other = graph.add("Concat", graph.add("Neg", second), first, axis=3)
    along = graph.add("Mul", x, graph.constant(cosine))
    return graph.add("Add", along, graph.add("Mul", other, graph.constant(sine)))


def _mlp(graph: Graph, size: Size, x: str, at: str) -> str:
    y = dense(graph, x, f"{at}.in")
    return dense(graph, gelu(graph, y, STYLES[size.style].gelu), f"{at}.out")


def gelu(graph: Graph, x: str, kind: str) -> str:
    """x times how much of it passes; kind: as in vit.GELUS."""

    def times(a: str, number: float) -> str:
        return graph.add("Mul", a, graph.constant(number))

    if kind == "quick":
        return graph.add("Mul", x, graph.add("Sigmoid", times(x, 1.702)))
    if kind == "exact":
        bent = graph.add("Erf", times(x, 0.5**0.5))
    else:
        cube = graph.add("Mul", graph.add("Mul", x, x), x)
        inner = graph.add("Add", x, times(cube, 0.044715))
        bent = graph.add("Tanh", times(inner, (2 / np.pi) ** 0.5))
    return graph.add("Mul", times(x, 0.5), graph.add("Add", bent, graph.constant(1.0)))


def _attention_pool(graph: Graph, size: Size, x: str) -> str:
    at = "backbone.attention_pool"
    probe = graph.weight(f"params.{at}.probe")
    asking = graph.constant(probe[None])
    y = _attention(graph, size, asking, x, f"{at}.attention")
    perceived = _mlp(graph, size, _norm(graph, size, y, f"{at}.norm"), f"{at}.mlp")
    y = graph.add("Add", y, perceived)
    return graph.add("Squeeze", y, graph.integers(1))
