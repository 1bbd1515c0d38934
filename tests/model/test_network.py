"""The detector: sizes known from elsewhere, padding that changes nothing, freezing."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util
from ml_collections import ConfigDict

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.model.backbones import resnet
from fakedetect_jax.model.network import FakeDetector
from fakedetect_jax.model.temporal import HoistedLSTM

TINY: dict[str, Any] = {
    "backbone": "resnet",
    "stage_sizes": (1, 1),
    "width": 4,
    "stem": "small2",
    "lstm_features": 6,
    "dtype": "float32",
}
# Convolutions and BatchNorm of torchvision's models: their published totals less the
# classifier of 1000 classes (25,557,032 for ResNet-50).
PUBLISHED = {
    "resnet18": 11_689_512 - 513_000,
    "resnet34": 21_797_672 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "resnet101": 44_549_160 - 2_049_000,
    "resnet152": 60_192_808 - 2_049_000,
}
VARIANTS = [
    {},
    {"pooling": "mean"},
    {"pooling": "attention"},
    {"bidirectional": True},
    {"bidirectional": True, "pooling": "attention"},
    {"temporal": "none"},
    {"temporal": "mean"},
    {"temporal": "attention"},
    {"temporal": "transformer"},
    {"temporal": "transformer", "pooling": "mean"},
]


def clips(num_clips=2, num_frames=4, size=16):
    shape = (num_clips, num_frames, size, size, 3)
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def shapes(model, size=32) -> Any:
    """The variables' names and shapes."""
    return jax.eval_shape(
        lambda: model.init(jax.random.key(0), clips(1, 2, size), jnp.ones(1, int))
    )


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def run(model, variables, *arguments, rngs=None, **static) -> Any:
    """model.apply as one compiled program."""
    apply = functools.partial(model.apply, **static)
    return jax.jit(lambda v, r, *a: apply(v, *a, rngs=r))(variables, rngs, *arguments)


def build(**fields) -> Any:
    """A tiny model with drawn variables, two clips and their lengths."""
    model = FakeDetector(**{**TINY, **fields})
    x, length = clips(), jnp.array([4, 2])
    # Compiling flax's initialisers would take most of the time of these tests.
    draw = np.random.default_rng(0)
    start = jax.eval_shape(lambda: model.init(jax.random.key(0), x, length))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(draw.normal(size=leaf.shape) * 0.3, jnp.float32),
        start["params"],
    )
    statistics = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, float(path[-1].key == "var")),
        start.get("batch_stats", {}),
    )
    return model, {"params": params, "batch_stats": statistics}, x, length


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_backbones_have_the_published_number_of_parameters(name):
    assert count(shapes(FakeDetector(name))["params"]["backbone"]) == PUBLISHED[name]


def test_resnet50_with_an_imagenet_head_has_25_56_million():
    backbone = shapes(FakeDetector("resnet50"))["params"]["backbone"]
    assert count(backbone) == 23_508_032
    assert count(backbone) + 2048 * 1000 + 1000 == 25_557_032


def test_frames_shrink_as_in_torchvision():
    for size, wanted in ((224, 7), (225, 8), (64, 2), (33, 2)):
        model = FakeDetector("resnet18")
        variables = shapes(model, size)
        x = jax.ShapeDtypeStruct((2, 3, size, size, 3), jnp.float32)
        maps = jax.eval_shape(
            lambda v, x, model=model: model.apply(v, x, method="backbone_features"),
            variables,
            x,
        )
        assert maps.shape == (2, 3, wanted, wanted, 512)
        assert maps.dtype == jnp.bfloat16


def test_every_parameter_is_float32_and_named():
    params = shapes(FakeDetector("resnet18", pooling="attention"))["params"]
    assert set(params) == {"backbone", "lstm", "pool", "head"}
    names: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    assert all(leaf.dtype == jnp.float32 for leaf in names.values())
    assert not [name for name in names if "Conv_" in name or "Dense_" in name]
    assert not [n for n in names if "/conv" in n and n.endswith("bias")]


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_frames_beyond_the_length_change_nothing(fields):
    model, variables, x, length = build(**fields)
    apply = jax.jit(model.apply)
    logits = apply(variables, x, length)
    assert logits.shape == (2,)
    assert logits.dtype == jnp.float32
    for filling in (50.0, jnp.nan):
        padded = x.at[1, 2:].set(filling)
        np.testing.assert_array_equal(apply(variables, padded, length), logits)
    seen = apply(variables, x.at[1, 1].add(1.0), length)
    assert seen[1] != logits[1]
    assert seen[0] == logits[0]


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_running_logits_are_those_of_the_clip_cut_there(fields):
    model, variables, x, length = build(**fields)
    running = run(model, variables, x, length, method="frame_logits")
    assert running.shape == (2, 4)
    for frames in (2, 4):
        cut = run(model, variables, x[:, :frames], jnp.minimum(length, frames))
        np.testing.assert_allclose(running[:, frames - 1], cut, atol=1e-6)


def test_a_clip_without_frames_counts_as_one():
    model, variables, x, _ = build(pooling="mean")
    none = run(model, variables, x, jnp.array([0, 0]))
    one = run(model, variables, x, jnp.array([1, 1]))
    np.testing.assert_array_equal(none, one)


def test_order_of_frames_matters_to_lstm_and_transformer_alone():
    order_matters = {"lstm": True, "transformer": True}
    for temporal in ("lstm", "mean", "attention", "transformer", "none"):
        fields, differs = {"temporal": temporal}, order_matters.get(temporal, False)
        model, variables, x, _ = build(**fields)
        length = jnp.array([4, 4])
        ahead = run(model, variables, x, length)
        back = run(model, variables, x[:, ::-1], length)
        assert bool(jnp.abs(ahead - back).max() > 1e-4) == differs


def test_remat_and_bfloat16_compute_the_same_function():
    model, variables, x, length = build()

    def gradient(model):
        def total(params):
            bound = {**variables, "params": params}
            logits, _ = model.apply(
                bound, x, length, train=True, mutable=["batch_stats"]
            )
            return (logits**2).sum()

        return jax.jit(jax.grad(total))(variables["params"])

    plain = gradient(model)
    saving = gradient(model.clone(remat=True))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, saving
    )
    half = run(model.clone(dtype="bfloat16"), variables, x, length)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, run(model, variables, x, length), atol=0.05)


@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_the_compilers_own_operations_compute_the_same_function(stem):
    """Wide enough for every kernel; the programs differ, or nothing is compared."""
    model, variables, x, length = build(width=32, stem=stem, dtype="float32")

    def both(model):
        def total(params):
            bound = {**variables, "params": params}
            logits, _ = model.apply(
                bound, x, length, train=True, mutable=["batch_stats"]
            )
            return (logits**2).sum(), logits

        step = jax.jit(jax.grad(total, has_aux=True)).lower(variables["params"])
        return step.as_text(), step.compile()(variables["params"])

    text, (gradient, logits) = both(model)
    plain_text, (plain_gradient, plain_logits) = both(model.clone(cpu_kernels=False))
    assert plain_text.count("stablehlo.convolution") > text.count(
        "stablehlo.convolution"
    )
    np.testing.assert_allclose(logits, plain_logits, rtol=1e-4)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * largest),
        gradient,
        plain_gradient,
    )


def test_training_moves_the_running_statistics_of_all_frames():
    model, variables, x, length = build()
    _, updated = run(model, variables, x, length, train=True, mutable=["batch_stats"])
    moved = updated["batch_stats"]["backbone"]["bn1"]
    kernel = variables["params"]["backbone"]["conv1"]["kernel"]
    images = x.reshape(-1, *x.shape[2:])
    y = jax.lax.conv_general_dilated(
        images,
        kernel,
        (2, 2),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(moved["mean"], 0.1 * y.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * y.var((0, 1, 2)), atol=1e-5)


def test_residual_branches_start_as_zero():
    block_class = resnet.Block(4, "basic")
    x = jnp.ones((1, 4, 4, 4))
    init = jax.jit(lambda key: block_class.init(key, x, False))
    block = init(jax.random.key(0))["params"]
    assert not block["bn2"]["scale"].any()
    assert block["bn1"]["scale"].all()


def test_dropout_needs_training():
    model, variables, x, length = build(dropout=0.5)
    rngs = {"dropout": jax.random.key(1)}
    evaluated = run(model, variables, x, length, rngs=rngs)
    np.testing.assert_array_equal(evaluated, run(model, variables, x, length))
    trained, again = (
        run(
            model,
            variables,
            x,
            length,
            rngs={"dropout": jax.random.key(seed)},
            train=True,
            mutable=["batch_stats"],
        )[0]
        for seed in (1, 2)
    )
    assert (trained != again).any()


def test_frozen_stages_get_no_gradient_and_keep_their_statistics():
    model, variables, x, length = build(freeze_stages=1)

    def total(params):
        bound = {**variables, "params": params}
        logits, updated = model.apply(
            bound, x, length, train=True, mutable=["batch_stats"]
        )
        return (logits**2).sum(), updated["batch_stats"]["backbone"]

    grads, moved = jax.jit(jax.grad(total, has_aux=True))(variables["params"])
    start = variables["batch_stats"]["backbone"]
    for name in moved:
        frozen = resnet.is_frozen(name, 1)
        assert frozen == (name in ("conv1", "bn1", "layer1_0"))
        same = jax.tree.map(lambda a, b: bool((a == b).all()), moved[name], start[name])
        assert all(jax.tree.leaves(same)) == frozen
        slopes = grads["backbone"][name]
        assert any(leaf.any() for leaf in jax.tree.leaves(slopes)) != frozen


def test_the_logit_follows_from_the_feature_maps():
    model, variables, x, length = build(pooling="attention")
    maps = run(model, variables, x, method="backbone_features")
    assert maps.shape == (2, 4, 4, 4, 8)

    def logit(maps):
        return model.apply(variables, maps, length, method="head_from_features")

    whole = run(model, variables, x, length)
    np.testing.assert_allclose(jax.jit(logit)(maps), whole, atol=1e-6)
    slopes = jax.jit(jax.grad(lambda maps: logit(maps).sum()))(maps)
    assert slopes[1, :2].any()
    assert not slopes[1, 2:].any()


def test_a_config_builds_the_model():
    config: Any = ConfigDict({**TINY, "stage_sizes": [1, 1], "bidirectional": True})
    assert count(shapes(FakeDetector(**config))["params"]) > 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"backbone": "resnet20"}, "backbone is 'resnet20'; use one of resnet18"),
        ({"pooling": "max"}, "pooling"),
        ({"stem": "large"}, "stem"),
        ({"dtype": "float16"}, "dtype"),
        ({"stage_sizes": ()}, "stage_sizes"),
        ({"stage_sizes": (1, 0)}, "at least 1"),
        ({"backbone": "resnet18"}, "stage_sizes is .* fixes it"),
        ({"freeze_stages": 3}, "has 2 stages"),
        ({"dropout": 1.0}, "dropout"),
        ({"lstm_features": 0}, "at least 1"),
        (
            {"backbone": "convnext", "stem": "imagenet", "norm_groups": 2},
            "only ResNets take, and not convnext",
        ),
    ],
    ids=str,
)
def test_fields_without_meaning_are_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        shapes(FakeDetector(**{**TINY, **fields}))


@pytest.mark.parametrize("reverse", [False, True])
def test_the_lstm_of_other_platforms_is_flaxes(reverse):
    rng = np.random.default_rng(0)
    x, length = jnp.asarray(rng.normal(size=(5, 4, 12)), jnp.float32), jnp.arange(1, 6)
    length = jnp.minimum(length, 4)
    lstm = HoistedLSTM(6, reverse)
    rnn = nn.RNN(nn.LSTMCell(6), reverse=reverse, keep_order=True)
    variables = lstm.init(jax.random.key(0), x, length)
    expected: Any = {"params": {"cell": variables["params"]}}
    shapes_of = functools.partial(jax.tree.map, jnp.shape)
    assert shapes_of(rnn.init(jax.random.key(0), x)) == shapes_of(expected)

    def total(states):
        return jnp.sum(states**3 * (jnp.arange(4) < length[:, None])[..., None])

    found = jax.value_and_grad(lambda x: total(lstm.apply(variables, x, length)))(x)
    wanted = jax.value_and_grad(
        lambda x: total(rnn.apply(expected, x, seq_lengths=length))
    )(x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        found,
        wanted,
    )
