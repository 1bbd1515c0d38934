"""What GPUs and TPUs would be given to compile, read off the lowered programs."""

import math
import re
from typing import Any, NamedTuple

import jax
import pytest

from fakedetect_jax.data.batch import empty_batch, empty_rows
from fakedetect_jax.model import steps, store
from fakedetect_jax.programs import compiled
from fakedetect_jax.run import parallel
from fakedetect_jax.settings import batch_shape, clip_shape

TRAINED, SCORED, EXPLAINED = "train", "eval", "explain"
RESIDENT = "resident"  # training on frames that the devices hold
# Of the LSTM over time, forward; and backward for a gradient. An explanation has one
# for the scores of all frames, of which one is the clip's, and two for the gradient.
LOOPS = {TRAINED: 2, RESIDENT: 2, SCORED: 1, EXPLAINED: 3}


class Program(NamedTuple):
    """A program as StableHLO, and what it was made of."""

    platform: str
    kind: str
    dtype: str
    text: str
    tree_leaves: int
    block_leaves: int
    conv_layers: int

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


RESNET: dict[str, Any] = dict(backbone="resnet", stage_sizes=(1, 1), block="bottleneck")
VIT: dict[str, Any] = dict(backbone="vit", width=24, depth=2, num_heads=2, patch_size=8)


def small(load_config, dtype: str, backbone=RESNET):
    """The config with most kinds of operations, of a network with each kernel."""
    config = load_config("ffpp_best")
    with config.unlocked():
        config.model.update(**backbone)
        config.model.update(lstm_features=8, bidirectional=False, dtype=dtype)
        config.dataset.image_size = 32
        config.data.clip_frames = 3
        config.batch_size = 16
    return config


@pytest.fixture(
    scope="module",
    params=[(k, d) for d in ("float32", "bfloat16") for k in LOOPS],
    ids=" ".join,
)
def traced(request, load_config):
    """A step of a kind and type over eight devices, before it is lowered."""
    kind, dtype = request.param
    return trace(kind, dtype, small(load_config, dtype))


def trace(kind: str, dtype: str, config):
    """What Program is made of, but for the platform and its text."""
    mesh = parallel.make_mesh()
    settings = steps.make_step_settings(config, num_steps=10)
    state = jax.eval_shape(
        lambda: steps.create_train_state(settings, clip_shape(config))
    )
    batch = empty_batch(*batch_shape(config, config.batch_size))
    if kind == EXPLAINED:
        batch = batch.frames, batch.length
    blocks = ()
    if kind == RESIDENT:  # in several blocks
        blocks = (store.lay_out([30] * 9, size=32, limit=100 * 32 * 32 * 3).shapes(),)
        batch = empty_rows(config.batch_size, config.data.clip_frames)
    tree = state if kind in (TRAINED, RESIDENT) else state.eval_variables()
    step = {
        TRAINED: lambda: compiled.compile_train_step(settings, mesh),
        RESIDENT: lambda: compiled.compile_resident_step(settings, mesh),
        SCORED: lambda: compiled.compile_eval_step(settings.model, mesh),
        EXPLAINED: lambda: compiled.compile_explain_step(settings.model, mesh),
    }[kind]()
    layers = sum(leaf.ndim == 4 for leaf in jax.tree.leaves(state.params))
    leaves = len(jax.tree.leaves(tree)), len(jax.tree.leaves(blocks))
    return kind, dtype, step.trace(tree, *blocks, batch), *leaves, layers


@pytest.fixture(scope="module", params=["cuda", "tpu"])
def program(request, traced) -> Program:
    return lowered(request.param, traced)


def lowered(platform: str, traced) -> Program:
    kind, dtype, step, *sizes = traced
    text = step.lower(lowering_platforms=(platform,)).as_text()
    return Program(platform, kind, dtype, text, *sizes)


def test_each_convolution_is_one_of_the_compilers_in_the_models_type(program):
    # In training also of both gradients, but for that of the frames.
    times = 3 * program.conv_layers - 1 if program.trains else 0
    assert program.count("convolution") == (times or program.conv_layers)
    short = {"float32": "f32", "bfloat16": "bf16"}[program.dtype]
    assert program.types("convolution") == {short}


@pytest.mark.parametrize("traced", [(SCORED, "bfloat16")], ids=" ".join, indirect=True)
def test_a_gpu_normalises_as_it_convolves(program):
    # A conversion to float32 shows the pass over the maps.
    maps = r"tensor<\d+x\d+x\d+x\d+x"
    widened = rf"stablehlo\.convert .*\({maps}bf16>\) -> {maps}f32>"
    passes = len(re.findall(widened, program.text))
    assert passes == {"cuda": 0, "tpu": program.conv_layers}[program.platform]


def test_only_the_lstm_loops(program):
    assert program.count("while") == LOOPS[program.kind]


def test_the_loop_takes_no_product_of_what_does_not_depend_on_it(program):
    # Of the 512 features of each of 16 clips' frames: of all frames at once.
    products = re.findall(r"stablehlo\.dot_general .* : (\(.*)", program.text)
    assert any("x3x512x" in product for product in products)
    assert not any(product.startswith("(tensor<16x512x") for product in products)


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
    given = program.tree_leaves if program.trains else 0
    assert found == [*range(given), *[None] * (len(arguments) - given)]


def test_the_batch_is_shared_out_and_the_rest_is_everywhere(program):
    def is_split(values: list[str]) -> list[bool]:
        axes = [re.findall(r"sdy\.sharding<@mesh, (.*?)>", value) for value in values]
        return ['"data"' in axis for (axis,) in axes]

    arguments, results = program.main()
    whole = program.tree_leaves + program.block_leaves
    rows = len(arguments) - whole
    assert is_split(arguments) == [False] * whole + [True] * rows
    assert not any(is_split(results))


def test_a_step_on_frames_that_devices_hold_begins_with_their_gathering(program):
    if program.kind == RESIDENT:
        before, after = program.text.split("stablehlo.optimization_barrier", 1)
        assert before.count('"stablehlo.gather"') == program.block_leaves > 2
        assert "stablehlo.convolution" not in before and "convolution" in after


@pytest.fixture(scope="module", params=[TRAINED, SCORED])
def traced_transformer(request, load_config):
    """A step of a ViT in bfloat16."""
    config = small(load_config, "bfloat16", VIT)
    return trace(request.param, "bfloat16", config)


@pytest.fixture(scope="module", params=["cuda", "tpu"])
def transformer(request, traced_transformer) -> Program:
    return lowered(request.param, traced_transformer)


def test_a_transformer_multiplies_tokens_in_the_models_type(transformer):
    products = re.findall(r"stablehlo\.dot_general .* : \((.*)\) ->", transformer.text)
    # 16 clips of 3 frames of 16 patches and a token, times weights or gradients.
    tokens = [p for p in products if re.search(r"<48x1[67]x\d+xb?f", p)]
    layers = 6 * VIT["depth"] + 1  # q, k, v, out and two of the MLP; the patches
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
