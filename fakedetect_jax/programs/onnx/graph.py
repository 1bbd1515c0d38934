"""The detector as an ONNX graph, written node by node.

The general converter for JAX needs an older Orbax than ours; and ONNX has an LSTM that
takes lengths, which says more than a traced loop.
"""

import numpy as np

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.model.backbones.efficientnet import EFFICIENTNETS, Size
from fakedetect_jax.model.backbones.resnet import STEMS
from fakedetect_jax.model.network import (
    FakeDetector,
    Variables,
    convnext_of,
    pooling_of,
    resnet_of,
    size_of,
)
from fakedetect_jax.model.pixels import scale_of
from fakedetect_jax.model.temporal import encoder_size, moments
from fakedetect_jax.programs.onnx import convnext, vit
from fakedetect_jax.programs.onnx.nodes import Graph, dense
from fakedetect_jax.run.leaves import to_leaves

OPSET = 17
IR_VERSION = 8  # of OPSET's time, so that older runtimes read it
EPSILON = 1e-5  # of every BatchNorm, as in backbones/resnet.py
# flax names an LSTM's gates i, f, g, o; ONNX stacks input, output, forget, cell.
GATES = "iofg"
MAX_BYTES = 2**31 - 2**20  # of weights: a message of protobuf ends at 2 GiB


def serialised(model: FakeDetector, variables: Variables, clip_shape) -> bytes:
    """The graph of frames uint8[clips,T,S,S,3], length int32[clips] -> logits and
    features, float32[clips] and float32[clips,D]; see network.logits_and_features.

    The graph computes in float32 whatever the model's dtype, takes any number of
    clips, and holds the weights.

    Raises ConfigError when the package onnx is not there, or the model is too large.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise ConfigError(
            "an ONNX graph needs the package onnx; in the clone, "
            "pip install -e '.[onnx]'"
        ) from error
    graph = Graph(to_leaves(variables), helper.make_node)
    width = _detector(graph, model, clip_shape)
    if sum(value.nbytes for value in graph.constants.values()) > MAX_BYTES:
        raise ConfigError(
            "an ONNX graph holds at most 2 GiB, and this model is larger: score with "
            "--backend jax, or export --stablehlo"
        )
    shape = ["clips", *clip_shape]
    known_by = ["clips", width]
    made = helper.make_graph(
        graph.nodes,
        "fakedetect",
        [
            helper.make_tensor_value_info("frames", TensorProto.UINT8, shape),
            helper.make_tensor_value_info("length", TensorProto.INT32, ["clips"]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["clips"]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, known_by),
        ],
        [numpy_helper.from_array(v, k) for k, v in graph.constants.items()],
    )
    whole = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="fakedetect-jax",
    )
    onnx.checker.check_model(whole, full_check=True)
    return whole.SerializeToString()


def _detector(graph: Graph, model: FakeDetector, clip_shape) -> int:
    """Adds all nodes; the width of a clip's features."""
    frames, side = clip_shape[0], clip_shape[1]
    x = graph.add("Cast", "frames", to=1)  # 1 is float32
    x = graph.add("Reshape", x, graph.integers(-1, side, side, 3))
    x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
    x = graph.add("Div", x, graph.constant(255.0))
    mean, std = scale_of(model.backbone, model.vit_style)
    x = graph.add("Sub", x, graph.constant(np.reshape(mean, (1, 3, 1, 1))))
    x = graph.add("Div", x, graph.constant(np.reshape(std, (1, 3, 1, 1))))
    size, stages = size_of(model), convnext_of(model)
    if size:
        patches = (side // size.patch) ** 2
        x, width = vit.features(graph, size, patches, x), size.width
    elif stages:
        x, width = convnext.features(graph, stages, x), stages.widths[-1]
    elif model.backbone in EFFICIENTNETS:
        x, width = _efficientnet(graph, EFFICIENTNETS[model.backbone], x)
    else:
        x, width = _resnet(graph, model, x)
    features = graph.add("Reshape", x, graph.integers(-1, frames, width))
    if model.unit_features:
        length_of = graph.add("ReduceL2", features, axes=[2], keepdims=1)
        length_of = graph.add("Max", length_of, graph.constant(1e-6))
        features = graph.add("Div", features, length_of)
    length = graph.add("Max", "length", graph.constant([1], np.int32))
    _mean_features(graph, features, length, frames)
    if model.temporal == "none":
        logits = _mean_over_frames(graph, features, length, frames)
    else:
        logits = dense(graph, _pooled(graph, model, features, length, frames), "head")
    graph.add("Squeeze", logits, graph.integers(1), name="logits")
    return width


def _conv(
    graph: Graph, x: str, conv: str, norm: str, stride: int, groups: int = 1
) -> tuple[str, int]:
    """Convolution and BatchNorm of these names below the backbone; and the channels."""
    kernel = graph.weight(f"params.backbone.{conv}.kernel")
    pad = kernel.shape[0] // 2
    x = graph.add(
        "Conv",
        x,
        graph.constant(kernel.transpose(3, 2, 0, 1)),
        strides=[stride, stride],
        pads=[pad] * 4,
        group=groups,
    )
    names = [f"params.backbone.{norm}.{part}" for part in ("scale", "bias")]
    names += [f"batch_stats.backbone.{norm}.{part}" for part in ("mean", "var")]
    parts = [graph.constant(graph.weight(name)) for name in names]
    return graph.add("BatchNormalization", x, *parts, epsilon=EPSILON), kernel.shape[3]


def _resnet(graph: Graph, model: FakeDetector, x: str) -> tuple[str, int]:
    """Features of images, and how many."""
    sizes, kind = resnet_of(model)
    _, stride, pool = STEMS[model.stem]
    x, width = _conv(graph, x, "conv1", "bn1", stride)
    x = graph.add("Relu", x)
    if pool:
        x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    # Which convolution of a block carries its stride: the 3x3 one of a bottleneck.
    strided, count = (1, 2) if kind == "basic" else (2, 3)
    for stage, blocks in enumerate(sizes, start=1):
        for i in range(blocks):
            block, stride = f"layer{stage}_{i}", 2 if stage > 1 and i == 0 else 1
            shortcut, y = x, x
            for part in range(1, count + 1):
                step = stride if part == strided else 1
                names = f"{block}.conv{part}", f"{block}.bn{part}"
                y, width = _conv(graph, y, *names, step)
                y = graph.add("Relu", y) if part < count else y
            if graph.has(f"params.backbone.{block}.downsample_conv.kernel"):
                names = f"{block}.downsample_conv", f"{block}.downsample_bn"
                shortcut, _ = _conv(graph, x, *names, stride)
            x = graph.add("Relu", graph.add("Add", y, shortcut))
    return graph.add("GlobalAveragePool", x), width


def _efficientnet(graph: Graph, size: Size, x: str) -> tuple[str, int]:
    """Features of images, and how many."""

    def unit(x: str, at: str, i: str, stride: int = 1, groups: int = 1) -> str:
        y, _ = _conv(graph, x, f"{at}conv{i}", f"{at}bn{i}", stride, groups)
        return y

    def silu(x: str) -> str:
        return graph.add("Mul", x, graph.add("Sigmoid", x))

    def gate(x: str, at: str) -> str:
        for name, act in (("squeeze", silu), ("excite", None)):
            place = f"params.backbone.{at}{name}."
            kernel = graph.weight(f"{place}kernel").transpose(3, 2, 0, 1)
            bias = graph.constant(graph.weight(f"{place}bias"))
            x = graph.add("Conv", x, graph.constant(kernel), bias)
            x = act(x) if act else graph.add("Sigmoid", x)
        return x

    x, width = silu(unit(x, "", "1", 2)), size.stem
    for number, stage in enumerate(size.stages, start=1):
        for i in range(stage.depth):
            at, stride, y = f"layer{number}_{i}.", 1 if i else stage.stride, x
            inner = width * stage.expand
            if inner != width:
                y = silu(unit(y, at, "1"))
            y = silu(unit(y, at, "2", stride, inner))
            y = graph.add("Mul", y, gate(graph.add("GlobalAveragePool", y), at))
            y = unit(y, at, "3")
            same = stride == 1 and width == stage.width
            x, width = graph.add("Add", x, y) if same else y, stage.width
    x = silu(unit(x, f"layer{len(size.stages)}_", ""))
    return graph.add("GlobalAveragePool", x), size.top


def _pooled(
    graph: Graph, model: FakeDetector, features: str, length: str, frames: int
) -> str:
    """[B,T,D] -> what the head sees of a clip."""
    if model.temporal == "lstm":
        return _lstm(graph, model, features, length, frames)
    mask = _mask(graph, length, frames)
    if model.temporal == "transformer":
        x = graph.add(
            "Add",
            dense(graph, features, "encoder.in"),
            graph.constant(moments(frames, model.lstm_features)),
        )
        x = vit.over_time(graph, encoder_size(model.lstm_features), x, mask)
        if model.pooling == "last":
            return _at_the_end(graph, x, length, frames)
    else:
        x = graph.add("Relu", dense(graph, features, "hidden.in"))
    return _weighted(graph, model, x, mask)


def _lstm(
    graph: Graph, model: FakeDetector, features: str, length: str, frames: int
) -> str:
    """[B,T,D] -> what the head sees of a clip."""
    names = ("forward", "backward")[: 1 + model.bidirectional]
    inputs, states, biases = [], [], []
    for name in names:
        at = f"params.lstm.{name}."
        inputs.append([graph.weight(f"{at}i{g}.kernel").T for g in GATES])
        states.append([graph.weight(f"{at}h{g}.kernel").T for g in GATES])
        bias = [graph.weight(f"{at}h{g}.bias") for g in GATES]
        biases.append([*(np.zeros_like(b) for b in bias), *bias])
    packed = [
        graph.constant(np.stack([np.concatenate(parts) for parts in directions]))
        for directions in (inputs, states, biases)
    ]
    # Backwards an LSTM begins where a clip ends; forwards what follows changes nothing,
    # and OpenVINO, which ignores lengths, gives the same.
    lengths = [length] if model.bidirectional else []
    ends = model.pooling == "last" and model.bidirectional
    y = graph.add(
        "LSTM",
        graph.add("Transpose", features, perm=[1, 0, 2]),
        *packed,
        *lengths,
        output=1 if ends else 0,  # the states at the ends, or all
        hidden_size=model.lstm_features,
        direction="bidirectional" if model.bidirectional else "forward",
    )
    width = model.lstm_features * len(names)
    if ends:
        y = graph.add("Transpose", y, perm=[1, 0, 2])  # from directions first
        return graph.add("Reshape", y, graph.integers(-1, width))
    y = graph.add("Transpose", y, perm=[2, 0, 1, 3])  # from [T,directions,B,F]
    y = graph.add("Reshape", y, graph.integers(-1, frames, width))
    if model.pooling == "last":
        return _at_the_end(graph, y, length, frames)
    return _weighted(graph, model, y, _mask(graph, length, frames))


def _at_the_end(graph: Graph, states: str, length: str, frames: int) -> str:
    """The state [B,F] of the last frame that counts."""
    steps_T = graph.constant(np.arange(1, frames + 1), np.int32)
    end = graph.add("Unsqueeze", length, graph.integers(1))
    weight = graph.add("Cast", graph.add("Equal", steps_T, end), to=1)
    pooled = graph.add(
        "MatMul", graph.add("Unsqueeze", weight, graph.integers(1)), states
    )
    return graph.add("Squeeze", pooled, graph.integers(1))


def _mask(graph: Graph, length: str, frames: int) -> str:
    """Which frames count, bool[B,T]."""
    steps_T = graph.constant(np.arange(frames), np.int32)
    return graph.add("Less", steps_T, graph.add("Unsqueeze", length, graph.integers(1)))


def _weighted(graph: Graph, model: FakeDetector, states: str, mask: str) -> str:
    """The mean of the states [B,T,F], or their sum by attention."""
    if pooling_of(model) == "attention":
        hidden = graph.add("Tanh", dense(graph, states, "pool.hidden"))
        score = dense(graph, hidden, "pool.score")
        score = graph.add("Squeeze", score, graph.integers(2))
    else:
        score = graph.constant(0.0)
    never = graph.constant(-1e30)
    weight = graph.add("Softmax", graph.add("Where", mask, score, never), axis=1)
    weight = graph.add("Unsqueeze", weight, graph.integers(1))
    pooled = graph.add("MatMul", weight, states)
    return graph.add("Squeeze", pooled, graph.integers(1))


def _mean_features(graph: Graph, features: str, length: str, frames: int) -> None:
    """The output of that name: the features' mean over the frames that count, [B,D]."""
    weight = graph.add("Cast", _mask(graph, length, frames), to=1)
    weight = graph.add("Unsqueeze", weight, graph.integers(1))
    total = graph.add("MatMul", weight, features)
    total = graph.add("Squeeze", total, graph.integers(1))
    count = graph.add("Unsqueeze", length, graph.integers(1))
    graph.add("Div", total, graph.add("Cast", count, to=1), name="features")


def _mean_over_frames(graph: Graph, features: str, length: str, frames: int) -> str:
    """The mean of the frames' own logits, [B,1]."""
    logits = graph.add("Squeeze", dense(graph, features, "head"), graph.integers(2))
    mask = _mask(graph, length, frames)
    kept = graph.add("Where", mask, logits, graph.constant(0.0))
    total = graph.add("ReduceSum", kept, graph.integers(1), keepdims=1)
    count = graph.add("Unsqueeze", length, graph.integers(1))
    return graph.add("Div", total, graph.add("Cast", count, to=1))
