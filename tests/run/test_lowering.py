"""What GPUs and TPUs would be given to compile, read off the lowered programs."""

import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

from fakedetect_jax.data.batch import empty_batch, empty_rows
from fakedetect_jax.model import steps, store
from fakedetect_jax.model.backbones.efficientnet import EFFICIENTNETS, Size, Stage
from fakedetect_jax.programs import compiled
from fakedetect_jax.run import parallel
from fakedetect_jax.settings import batch_shape, clip_shape

TRAINED, SCORED, EXPLAINED = "train", "eval", "explain"
RESIDENT = "resident"  # training on frames that the devices hold
# Of the LSTM over time, forward; and backward for a gradient. An explanation has one
# for the scores of all frames, of which one is the clip's, and two for the gradient.
LOOPS = {TRAINED: 2, RESIDENT: 2, SCORED: 1, EXPLAINED: 3}


class Facts(NamedTuple):
    """What a program was made of."""

    kind: str
    dtype: str
    tree_split: list[bool]  # of each leaf of the state: over the devices, or not
    block_leaves: int
    conv_layers: int
    features: int  # of a frame
    split: bool  # config.shard_optimizer


class Program(NamedTuple):
    """A program as StableHLO, and what it was made of."""

    platform: str
    text: str
    facts: Facts

    @property
    def kind(self) -> str:
        return self.facts.kind

    @property
    def trains(self) -> bool:
        return self.kind in (TRAINED, RESIDENT)

    def types(self, operation: str) -> set[str]:
        """The element types of all operands and results of an operation."""
        lines = re.findall(rf"stablehlo\.{operation}\b.*? : (\(.*)", self.text)
        return set(re.findall(r"[x<]([a-z]+\d+)>", " ".join(lines)))

    def count(self, operation: str) -> int:
        return len(re.findall(rf"stablehlo\.{operation}\b", self.text))

    def main(self) -> tuple[list[str], list[str]]:
        """Arguments and results of the program with their attributes."""
        (line,) = re.findall(r"func\.func public @main\((.*)\{$", self.text, re.M)
        arguments, results = line.split(") -> (")
        return arguments.split("tensor<")[1:], results.split("tensor<")[1:]


RESNET, VIT = "resnet", "vit"
# Of each backbone, a small one.
BACKBONES: dict[str, dict[str, Any]] = {
    RESNET: dict(backbone="resnet", stage_sizes=(1, 1), block="bottleneck"),
    VIT: dict(backbone="vit", width=24, depth=2, num_heads=2, patch_size=8),
    "convnext": dict(backbone="convnext", stage_sizes=(1, 1), width=24),
    "efficientnet": dict(backbone="efficientnet_b0"),  # with the stages of TINY
}
CHANGES = {
    **{"jpeg": 0.5, "blur": 0.2, "downscale": 0.2},
    **{"brightness_contrast": 0.3, "hue_saturation": 0.3},
}
TINY = Size((Stage(1, 3, 1, 8, 2), Stage(4, 5, 2, 16, 2)), stem=8, top=24)


class Way(NamedTuple):
    """What is traced: a step of a kind, of a network in a type."""

    kind: str
    dtype: str
    backbone: str = RESNET
    changes: bool = False  # augmentation and self-blends: most kinds of operations
    split: bool = False

    def __str__(self) -> str:
        words = self.kind, self.dtype, self.backbone, "split" * self.split
        return " ".join(filter(None, words))


WAYS = [
    *(Way(k, d, changes=True) for d in ("float32", "bfloat16") for k in LOOPS),
    Way(TRAINED, "bfloat16", split=True),
    *(
        Way(kind, "bfloat16", backbone)
        for backbone in ("convnext", "efficientnet")
        for kind in (TRAINED, SCORED)
    ),
]


def small(load_config, way: Way):
    """The config of a way, of a network with each kernel."""
    config = load_config("ffpp").copy_and_resolve_references()
    with config.unlocked():
        if way.changes:
            config.model.pooling = "mean"
            config.loss.self_blend = 0.5
            config.augment.update(CHANGES)
        config.model.update(**BACKBONES[way.backbone])
        config.model.update(lstm_features=8, bidirectional=False, dtype=way.dtype)
        config.shard_optimizer = way.split
        config.dataset.image_size = 32
        config.data.clip_frames = 3
        config.batch_size = 16
    return config


Step = Callable[..., Any]


def unchanged(step: Step, mesh: jax.sharding.Mesh) -> Step:
    del mesh
    return step


def trace(load_config, way: Way, change: Callable = unchanged) -> tuple[Any, Facts]:
    """A step over eight devices before it is lowered, and what it is made of.

    change: (step, mesh) -> the step that is traced in its place.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EFFICIENTNETS, "efficientnet_b0", TINY)
        return _trace(way.kind, small(load_config, way), change)


def _trace(kind: str, config, change: Callable) -> tuple[Any, Facts]:
    mesh = parallel.make_mesh()
    settings = steps.make_step_settings(config, num_steps=10)
    state = jax.eval_shape(
        lambda: steps.create_train_state(settings, clip_shape(config))
    )
    places = compiled.state_places(state, mesh, shard_optimizer=config.shard_optimizer)
    batch = empty_batch(*batch_shape(config, config.batch_size))
    if kind == EXPLAINED:
        batch = batch.frames, batch.length
    blocks = ()
    if kind == RESIDENT:  # in several blocks
        blocks = (store.lay_out([30] * 9, size=32, limit=100 * 32 * 32 * 3).shapes(),)
        batch = empty_rows(config.batch_size, config.data.clip_frames)
    trains = kind in (TRAINED, RESIDENT)
    tree = state if trains else state.eval_variables()
    step = {
        TRAINED: lambda: compiled.compile_train_step(settings, mesh, places),
        RESIDENT: lambda: compiled.compile_resident_step(settings, mesh, places),
        SCORED: lambda: compiled.compile_eval_step(settings.model, mesh),
        EXPLAINED: lambda: compiled.compile_explain_step(settings.model, mesh),
    }[kind]()
    split = [not place.is_fully_replicated for place in jax.tree.leaves(places)]
    facts = Facts(
        kind=kind,
        dtype=config.model.dtype,
        tree_split=split if trains else [False] * len(jax.tree.leaves(tree)),
        block_leaves=len(jax.tree.leaves(blocks)),
        conv_layers=sum(leaf.ndim == 4 for leaf in jax.tree.leaves(state.params)),
        features=state.params["lstm"]["forward"]["ii"]["kernel"].shape[0],
        split=config.shard_optimizer,
    )
    return change(step, mesh).trace(tree, *blocks, batch), facts


def lowered(platform: str, traced: tuple[Any, Facts]) -> Program:
    step, facts = traced
    text = step.lower(lowering_platforms=(platform,)).as_text()
    return Program(platform, text, facts)


@pytest.fixture(scope="module", params=WAYS, ids=str)
def traced(request, load_config):
    return trace(load_config, request.param)


@pytest.fixture(scope="module", params=["cuda", "tpu"])
def program(request, traced) -> Program:
    return lowered(request.param, traced)


def test_each_convolution_is_one_of_the_compilers_in_the_models_type(program):
    # In training also of both gradients, but for that of the frames.
    layers = program.facts.conv_layers
    times = 3 * layers - 1 if program.trains else layers
    assert program.count("convolution") == times
    short = {"float32": "f32", "bfloat16": "bf16"}[program.facts.dtype]
    assert program.types("convolution") == {short}


@pytest.mark.parametrize("traced", [Way(SCORED, "bfloat16")], ids=str, indirect=True)
def test_a_gpu_normalises_as_it_convolves(program):
    # A conversion to float32 shows the pass over the maps.
    maps = r"tensor<\d+x\d+x\d+x\d+x"
    widened = rf"stablehlo\.convert .*\({maps}bf16>\) -> {maps}f32>"
    passes = len(re.findall(widened, program.text))
    assert passes == {"cuda": 0, "tpu": program.facts.conv_layers}[program.platform]


def test_only_the_lstm_loops(program):
    assert program.count("while") == LOOPS[program.kind]


def test_the_loop_takes_no_product_of_what_does_not_depend_on_it(program):
    # Of the features of each of 16 clips' frames: of all frames at once.
    products = re.findall(r"stablehlo\.dot_general .* : (\(.*)", program.text)
    features = program.facts.features
    assert any(f"x3x{features}x" in product for product in products)
    assert not any(p.startswith(f"(tensor<16x{features}x") for p in products)


def test_no_sum_of_many_numbers_is_scattered_on_a_gpu(program):
    # What is left belongs to a frame's number: one value to each place.
    if program.platform == "cuda":
        assert program.count("select_and_scatter") == 0
        scattered = re.findall(r"stablehlo\.scatter\b(?:.|\n)*?: \((.*)", program.text)
        for types in scattered:
            sizes = [
                [int(n) for n in re.findall(r"(\d+)x", one)]
                for one in re.findall(r"tensor<(.*?)>", types)
            ]
            assert max(map(math.prod, sizes)) < 1e5, types


def test_nothing_is_called_that_the_compiler_does_not_make_itself(program):
    assert program.count("custom_call") == 0


def test_the_state_and_nothing_else_is_updated_in_place(program):
    arguments, _ = program.main()
    aliases = [re.search(r"tf\.aliasing_output = (\d+)", a) for a in arguments]
    found = [None if alias is None else int(alias[1]) for alias in aliases]
    given = len(program.facts.tree_split) if program.trains else 0
    assert found == [*range(given), *[None] * (len(arguments) - given)]


def test_the_batch_is_shared_out_and_only_moments_beside_it_where_asked(program):
    def is_split(values: list[str]) -> list[bool]:
        axes = [re.findall(r"sdy\.sharding<@mesh, (.*?)>", value) for value in values]
        return ['"data"' in axis for (axis,) in axes]

    arguments, results = program.main()
    tree, blocks = program.facts.tree_split, program.facts.block_leaves
    assert any(tree) == program.facts.split
    rows = len(arguments) - len(tree) - blocks
    assert is_split(arguments) == [*tree, *[False] * blocks, *[True] * rows]
    kept = tree if program.trains else []
    assert is_split(results) == [*kept, *[False] * (len(results) - len(kept))]


def test_a_step_on_frames_that_devices_hold_begins_with_their_gathering(program):
    if program.kind == RESIDENT:
        before, after = program.text.split("stablehlo.optimization_barrier", 1)
        assert before.count('"stablehlo.gather"') == program.facts.block_leaves > 2
        assert "stablehlo.convolution" not in before and "convolution" in after


@pytest.fixture(scope="module", params=[TRAINED, SCORED])
def traced_transformer(request, load_config):
    """A step of a ViT in bfloat16."""
    way = Way(request.param, "bfloat16", VIT, changes=True)
    return trace(load_config, way)


@pytest.fixture(scope="module", params=["cuda", "tpu"])
def transformer(request, traced_transformer) -> Program:
    return lowered(request.param, traced_transformer)


def test_a_transformer_multiplies_tokens_in_the_models_type(transformer):
    products = re.findall(r"stablehlo\.dot_general .* : \((.*)\) ->", transformer.text)
    # 16 clips of 3 frames of 16 patches and a token, times weights or gradients.
    tokens = [p for p in products if re.search(r"<48x1[67]x\d+xb?f", p)]
    layers = (
        6 * BACKBONES[VIT]["depth"] + 1
    )  # q, k, v, out and two of the MLP; the patches
    # Forward, and both gradients, but for that of the pixels.
    times = 3 * layers - 1 if transformer.trains else 0
    assert len(tokens) == (times or layers)
    assert not [p for p in tokens if re.search(r"xf32>", p)]


def test_a_transformer_is_the_compilers_alone(transformer):
    assert transformer.count("while") == LOOPS[transformer.kind]
    for operation in ("custom_call", "convolution", "scatter"):
        assert transformer.count(operation) == 0


def test_a_transformers_state_is_updated_in_place(transformer):
    test_the_state_and_nothing_else_is_updated_in_place(transformer)


# Do the checks notice? Steps that users run, changed so that one of them must fail.


def after(change: Callable[[Any, Any], jax.Array]) -> Callable[..., Step]:
    """Scoring whose logits go through a function of them and the batch."""

    @functools.wraps(change)  # for the test's name
    def changed(step: Step, mesh: jax.sharding.Mesh) -> Step:
        return compiled.over_mesh(lambda v, batch: change(step(v, batch), batch), mesh)

    return changed


@after
def calls_a_kernel_of_cpus(logits, batch):
    shape = jax.ShapeDtypeStruct(logits.shape, logits.dtype)
    return jax.ffi.ffi_call("kernel_of_cpus", shape)(logits)


@after
def loops_over_clips(logits, batch):
    return jax.lax.map(jnp.tanh, logits)


@after
def scatters_sums(logits, batch):
    table = jnp.zeros((1000, 128)).at[batch.index].add(logits[:, None])
    return table[batch.index].mean(axis=1)


def takes_the_batch_whole(step: Step, mesh: jax.sharding.Mesh) -> Step:
    everywhere = parallel.replicated(mesh)
    return jax.jit(step, in_shardings=everywhere, out_shardings=everywhere)


def leaves_the_logits_apart(step: Step, mesh: jax.sharding.Mesh) -> Step:
    everywhere, spread = parallel.replicated(mesh), parallel.batch_sharded(mesh)
    return jax.jit(step, in_shardings=(everywhere, spread), out_shardings=spread)


CALLED = test_nothing_is_called_that_the_compiler_does_not_make_itself
LOOPED = test_only_the_lstm_loops
SCATTERED = test_no_sum_of_many_numbers_is_scattered_on_a_gpu
SHARED = test_the_batch_is_shared_out_and_only_moments_beside_it_where_asked
UPDATED = test_the_state_and_nothing_else_is_updated_in_place
CONVOLVED = test_each_convolution_is_one_of_the_compilers_in_the_models_type


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (calls_a_kernel_of_cpus, CALLED),
        (loops_over_clips, LOOPED),
        (scatters_sums, SCATTERED),
        (takes_the_batch_whole, SHARED),
        (leaves_the_logits_apart, SHARED),
    ],
)
def test_scoring_that_is_wrong_is_noticed(load_config, change, check):
    program = lowered("cuda", trace(load_config, Way(SCORED, "bfloat16"), change))
    with pytest.raises(AssertionError):
        check(program)


def test_a_network_in_another_type_is_noticed(load_config):
    program = lowered("cuda", trace(load_config, Way(SCORED, "float32")))
    CONVOLVED(program)
    other = program._replace(facts=program.facts._replace(dtype="bfloat16"))
    with pytest.raises(AssertionError):
        CONVOLVED(other)


def test_a_state_that_is_copied_or_whole_is_noticed(load_config):
    """A jit around the step does not keep what the step's own gives away and splits."""

    def wrapped(step: Step, mesh: jax.sharding.Mesh) -> Step:
        everywhere, spread = parallel.replicated(mesh), parallel.batch_sharded(mesh)
        return jax.jit(step, in_shardings=(everywhere, spread))

    way = Way(TRAINED, "bfloat16", split=True)
    program = lowered("cuda", trace(load_config, way, wrapped))
    for check in (UPDATED, SHARED):
        with pytest.raises(AssertionError):
            check(program)


def test_an_operation_of_cpus_alone_is_noticed(load_config):
    @after
    def decomposes(logits, batch):
        return jax.lax.linalg.schur(jnp.outer(logits, logits))[0][0]

    traced = trace(load_config, Way(SCORED, "bfloat16"), decomposes)
    for platform in ("cuda", "tpu"):
        with pytest.raises(NotImplementedError, match="schur"):
            lowered(platform, traced)
