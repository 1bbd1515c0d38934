"""What is frozen stays to the bit and costs nothing; what is trained learns as ever."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.model import network, steps, trainable
from fakedetect_jax.model.trainable import Trainable
from fakedetect_jax.programs import compiled
from fakedetect_jax.run import parallel
from fakedetect_jax.run.leaves import to_leaves
from tests.model.test_steps import FRAMES, SIZE, random_batch

FROZEN = ("head", "norms", "lora", "svd", "last_n")
IN_PLACE = tuple(trainable.ADAPTERS)
CLIP = (FRAMES, SIZE, SIZE, 3)


@pytest.fixture(scope="module")
def small(load_config):
    """The demo's config with a tiny transformer."""
    config = load_config("demo")
    with config.unlocked():
        config.model.update(backbone="vit", vit_style="clip", width=16, depth=2)
        config.model.update(num_heads=2, patch_size=8, lstm_features=8)
        config.model.update(stage_sizes=(), stem="imagenet")
        config.dataset.image_size = SIZE
        config.data.clip_frames = FRAMES
        config.optimizer.update(learning_rate=1e-2, schedule="constant", warmup_steps=0)
        config.adapter.rank = 2
        config.augment.flip = 0.0
        config.batch_size = 8
    return config


def varied(config, kind: str, **fields: Any):
    """The config with another choice of what is trained."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.trainable = kind
        config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module")
def whole(small) -> steps.TrainState:
    """The state with which a run that trains all begins."""
    settings = steps.make_step_settings(varied(small, "all"), num_steps=50)
    return jax.jit(functools.partial(steps.create_train_state, settings, CLIP))()


def begin(config, whole) -> tuple[steps.StepSettings, steps.TrainState]:
    """The state with which a run begins that trains less."""
    settings = steps.make_step_settings(config, num_steps=50)
    key = jax.random.key(0)
    params = trainable.with_adapters(whole.params, settings.trainable, key)
    moments = settings.optimizer.init(settings.split(params)[0])
    state = whole.replace(params=params, opt_state=moments)
    if settings.ema_decay:
        state = steps.start_average(settings, state)
    return settings, jax.tree.map(jnp.copy, state)


def gradients(settings, state, batch) -> dict[str, Any]:
    found = jax.jit(functools.partial(steps.gradients, settings))(state, batch)[0]
    return to_leaves(found)


@pytest.fixture(scope="module")
def every(small, whole) -> dict[str, Any]:
    """The gradients of all parameters on the first batch."""
    settings, state = begin(varied(small, "all"), whole)
    return gradients(settings, state, random_batch(8))


@pytest.mark.parametrize("kind", FROZEN)
def test_gradients_are_those_of_a_run_that_trains_all(small, whole, every, kind):
    # The loss of svd on sizes has a kink where training begins.
    settings, state = begin(varied(small, kind, **{"adapter.size": 0.0}), whole)
    found = gradients(settings, state, random_batch(8))
    alike = {k: v for k, v in found.items() if not k.startswith(IN_PLACE)}
    assert ("head.kernel" in alike) and len(alike) < len(every)
    most = max(float(np.abs(leaf).max()) for leaf in every.values())
    for name, leaf in alike.items():
        np.testing.assert_allclose(leaf, every[name], atol=1e-6 * max(most, 1))
    if kind == "lora":  # B is zero at first, so A has no gradient, and B's is A'G
        a = state.params["lora"]["block1"]["attention"]["value"]["a"]
        kernel = every["backbone.block1.attention.value.kernel"]
        wanted = small.adapter.alpha / small.adapter.rank * a.T @ kernel
        b = found["lora.block1.attention.value.b"]
        np.testing.assert_allclose(b, wanted, atol=1e-6 * max(most, 1))
    if kind == "svd":  # the kernel's gradient seen along its own directions
        part = state.params["svd"]["block1"]["attention"]["value"]
        kernel = every["backbone.block1.attention.value.kernel"]
        wanted = np.diag(part["u"].T @ kernel @ part["v"].T)
        s = found["svd.block1.attention.value.s"]
        np.testing.assert_allclose(s, wanted, atol=1e-6 * max(most, 1))


def test_the_gradients_of_parts_are_summed(small, whole):
    batch, found = random_batch(8), []
    for parts in (1, 2):
        same = {"accumulate": parts, "model.dropout": 0.0}
        settings, state = begin(varied(small, "head", **same), whole)
        found.append(gradients(settings, state, batch))
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, atol=1e-5), *found
    )


@pytest.mark.parametrize("kind", ["head", "norms", "lora", "svd", "last_n"])
def test_frozen_leaves_stay_to_the_bit(small, whole, kind):
    """After 50 steps with decay and averages; what is trained does move."""
    config = varied(small, kind)
    with config.unlocked():
        config.optimizer.update(weight_decay=0.1, ema_decay=0.9, clip_norm=1.0)
    settings, state = begin(config, whole)
    step = compiled.compile_train_step(settings, parallel.make_mesh(jax.devices()[:1]))
    before = jax.tree.map(np.array, to_leaves(state.params))
    keep = trainable.is_trained(settings.model, settings.trainable)
    losses = []
    for seed in range(50):
        state, metrics = step(state, random_batch(8, seed % 2))
        losses.append(float(metrics.loss))
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    moved = {
        name: bool((np.asarray(leaf) != before[name]).any())
        for name, leaf in to_leaves(state.params).items()
    }
    assert {name for name, has in moved.items() if has} == {
        name for name in before if keep(tuple(name.split(".")))
    }
    averaged = to_leaves(state.eval_variables()["params"])
    frozen = [n for n in before if not keep(tuple(n.split("."))) and n in averaged]
    assert frozen and not any(name.startswith(IN_PLACE) for name in averaged)
    for name in frozen:
        changed = kind in IN_PLACE and ".attention." in name and name.endswith("kernel")
        assert (np.asarray(averaged[name]) == before[name]).all() != changed, name


def test_less_is_kept_for_gradients_of_what_is_frozen(small, whole):
    mesh = parallel.make_mesh(jax.devices()[:1])
    taken = []
    for kind in ("head", "norms", "all"):
        settings, state = begin(varied(small, kind), whole)
        batch = parallel.to_global(random_batch(8), mesh)
        step = compiled.compile_train_step(settings, mesh).lower(state, batch).compile()
        sizes: Any = step.memory_analysis()
        taken.append(sizes.temp_size_in_bytes)
    assert taken[0] < taken[1] < taken[2], taken


@pytest.mark.parametrize("kind", FROZEN)
def test_the_optimiser_keeps_nothing_of_what_is_frozen(small, whole, kind):
    settings, state = begin(varied(small, kind), whole)
    trained = to_leaves(settings.split(state.params)[0])
    moments = to_leaves(state.opt_state[0].mu)
    assert {k: v.shape for k, v in moments.items()} == {
        k: v.shape for k, v in trained.items()
    }


def test_which_leaves_are_norms(small, whole):
    settings, state = begin(varied(small, "norms"), whole)
    found = to_leaves(settings.split(state.params)[0]["backbone"])
    layers = {name.rpartition(".")[0] for name in found}
    assert layers == {
        *("embed.pre_norm", "norm"),
        *(f"block{i}.norm{n}" for i in range(2) for n in (1, 2)),
    }


def resnet(config, kind: str, **fields: Any):
    config = varied(config, kind, **fields)
    with config.unlocked():
        config.model.update(backbone="resnet", stage_sizes=(1, 1, 1), width=8)
        config.model.update(vit_style="plain", depth=12, num_heads=4, patch_size=16)
    return config


@pytest.mark.parametrize("kind", ["last_n", "norms"])
def test_of_a_resnet_what_is_frozen_keeps_its_statistics(small, kind):
    settings = steps.make_step_settings(resnet(small, kind), num_steps=1)
    state = jax.jit(functools.partial(steps.create_train_state, settings, CLIP))()
    before = jax.tree.map(np.array, to_leaves(state.eval_variables()))
    step = jax.jit(functools.partial(steps.train_step, settings))
    state, _ = step(state, random_batch(8))
    after = to_leaves(state.eval_variables())
    moved = {n for n in before if (np.asarray(after[n]) != before[n]).any()}
    inside = {n.split(".")[2] for n in moved if n.split(".")[1] == "backbone"}
    assert (
        inside
        == {
            "last_n": {"layer3_0"},
            "norms": {"bn1", "layer1_0", "layer2_0", "layer3_0"},
        }[kind]
    )
    assert not [n for n in moved if kind == "norms" and "backbone" in n and "conv" in n]


def test_a_change_of_low_rank_begins_as_nothing_and_has_its_rank(small, whole):
    config = varied(small, "lora")
    settings, state = begin(config, whole)
    merged = state.eval_variables()["params"]
    jax.tree.map(np.testing.assert_array_equal, merged, whole.params)
    change = state.params["lora"]["block0"]["attention"]["key"]
    rng = np.random.default_rng(0)
    change["b"] = jnp.asarray(rng.normal(size=change["b"].shape), jnp.float32)
    kernels = (
        tree["backbone"]["block0"]["attention"]["key"]["kernel"]
        for tree in (trainable.merged(state.params), whole.params)
    )
    apart = np.subtract(*kernels)
    assert np.linalg.matrix_rank(apart, tol=1e-4) == config.adapter.rank
    np.testing.assert_allclose(apart, 8 * change["a"] @ change["b"], atol=1e-5)
    assert change["scale"] == settings.trainable.alpha / settings.trainable.rank == 8


@pytest.mark.parametrize(("kind", "leaf"), [("lora", "b"), ("svd", "s")])
def test_changes_of_early_blocks_learn_slower_than_the_head(small, whole, kind, leaf):
    """At the rate of the block that they change, as if its kernels were trained."""
    slower = {"optimizer.backbone_multiplier": 0.5, "optimizer.layer_decay": 0.1}
    settings, state = begin(varied(small, kind, **slower), whole)
    start = jax.tree.map(np.array, state.params)
    trained, _ = jax.jit(functools.partial(steps.train_step, settings))(
        state, random_batch(8)
    )
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start, trained.params)
    # Adam's first step is the learning rate itself.
    rate = small.optimizer.learning_rate
    np.testing.assert_allclose(moved["head"]["bias"], rate, rtol=1e-3)
    for block, factor in (("block1", 0.5), ("block0", 0.05)):
        for name in trainable.PROJECTIONS:
            change = moved[kind][block]["attention"][name][leaf]
            np.testing.assert_allclose(change, factor * rate, rtol=1e-2)


def test_the_least_part_is_kept_beside_the_rest(small, whole):
    """The losses are those of the full matrices, and nothing at the start."""
    settings, state = begin(varied(small, "svd"), whole)
    assert float(trainable.adapter_loss(state.params, settings.trainable)) < 1e-5
    block, rng = state.params["svd"]["block1"]["attention"], np.random.default_rng(0)
    part = block["out"]
    for name in ("u", "s", "v"):
        noise = rng.normal(size=part[name].shape) * 0.3
        part[name] = part[name] + jnp.asarray(noise, jnp.float32)
    kernel = whole.params["backbone"]["block1"]["attention"]["out"]["kernel"]
    u, s, v = np.linalg.svd(np.asarray(kernel, np.float64))
    rank = small.adapter.rank
    u, v = (
        np.concatenate(p, 1)
        for p in ((u[:, :-rank], part["u"]), (v[:-rank].T, part["v"].T))
    )
    s = np.concatenate([s[:-rank], part["s"]])
    now = (u * s) @ v.T
    merged = trainable.merged(state.params)["backbone"]["block1"]["attention"]
    np.testing.assert_allclose(merged["out"]["kernel"], now, atol=1e-5)
    askew = sum(((m.T @ m - np.eye(16)) ** 2).sum() for m in (u, v))
    size = abs((now**2).sum() - (np.asarray(kernel) ** 2).sum())
    found = trainable.adapter_loss(state.params, settings.trainable)
    np.testing.assert_allclose(found, (askew + size) / 8, rtol=1e-4)
    # An update lowers them with the loss of the clips.
    batch = jax.tree.map(jnp.asarray, random_batch(4))
    frames, dropout_key = steps.prepare_inputs(settings, jnp.int32(0), batch)
    lowered, (loss, *_) = steps.objective(
        *(settings, state.params, state.batch_stats, batch, frames, dropout_key),
        steps.Counts.of(batch),
    )
    np.testing.assert_allclose(lowered - loss, found, rtol=1e-4)


def bytes_of_l14(kind: str, load_config) -> tuple[int, int]:
    """Of parameters, and of the optimiser's state, counted without making them."""
    config = load_config("ffpp")
    with config.unlocked():
        config.model.update(backbone="clip_l14", temporal="none")
        config.trainable = kind
    settings = steps.make_step_settings(config, num_steps=1)
    state = jax.eval_shape(lambda: steps.create_train_state(settings, (1, 224, 224, 3)))

    def size(tree: Any) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    return size(state.params), size(state.opt_state)


def test_the_norms_of_clip_l14_are_three_of_ten_thousand(load_config):
    params, moments = bytes_of_l14("norms", load_config)
    assert params == 4 * (303_179_776 + 1025)
    norms = 4 * (50 * 2 * 1024 + 1025)
    assert moments == 2 * norms + 8  # and two counts of steps
    assert norms / params == pytest.approx(0.0003, abs=5e-5)


@pytest.mark.parametrize(
    ("backbone", "chosen", "said"),
    [
        ("resnet50", Trainable("lora"), "resnet50 has no attention"),
        ("resnet50", Trainable("last_n", last_n=5), "resnet50 has 4 stages"),
        ("clip_b16", Trainable("last_n", last_n=13), "clip_b16 has 12 blocks"),
    ],
    ids=str,
)
def test_what_a_backbone_cannot_train_is_refused(backbone, chosen, said):
    with pytest.raises(ConfigError, match=said):
        trainable.check(network.FakeDetector(backbone), chosen)
    both = network.FakeDetector("resnet50", freeze_stages=1)
    with pytest.raises(ConfigError, match="both freeze"):
        trainable.check(both, Trainable("head"))


def test_frames_of_a_class_are_drawn_together_and_all_apart(small, whole):
    """Alignment and uniformity, pair by pair."""
    config = varied(small, "norms", **{"model.unit_features": True})
    with config.unlocked():
        config.loss.update(alignment=0.3, uniformity=0.7)
    settings = steps.make_step_settings(config, num_steps=1)
    batch = random_batch(4)
    batch.valid[3] = False
    draw = np.random.default_rng(0)
    frames = jnp.asarray(draw.normal(size=(4, *CLIP)), jnp.float32)
    variables = {"params": whole.params}
    found: Any = settings.model.apply(
        variables, frames, batch.length, method="training_outputs"
    )
    features = found[1]
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-5)
    points = [
        (np.asarray(features[n, t]), batch.label[n])
        for n in range(3)
        for t in range(batch.length[n])
    ]
    pairs = [
        (((a - b) ** 2).sum(), first == second)
        for i, (a, first) in enumerate(points)
        for b, second in points[i + 1 :]
    ]
    alignment = np.mean([apart for apart, same in pairs if same])
    uniformity = np.log(np.mean([np.exp(-2 * apart) for apart, _ in pairs]))
    found = steps.sphere_loss(settings, features, batch)
    wanted = 0.3 * alignment + 0.7 * uniformity
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    counts = steps.Counts.of(jax.tree.map(jnp.asarray, batch))
    total, (loss, *_) = steps.objective(
        settings, whole.params, {}, batch, frames, jax.random.key(0), counts
    )
    np.testing.assert_allclose(total - loss, wanted, atol=1e-5)
