"""Vision transformers: the published families' features, from the published names."""

import functools
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fakedetect_jax.errors import CheckpointError, ConfigError
from fakedetect_jax.model import explain, network, pretrained, steps
from fakedetect_jax.model.backbones import names, vit
from fakedetect_jax.model.backbones.vit import VITS, Size, ViT
from fakedetect_jax.model.network import FakeDetector
from fakedetect_jax.programs import runtimes
from fakedetect_jax.programs.onnx.graph import serialised

SIZES = {
    "plain": Size("plain", 32, 3, 2, 8),
    "clip": Size("clip", 32, 3, 2, 8),
    "dinov2": Size("dinov2", 32, 3, 2, 8),
    "dinov2 registers": Size("dinov2", 32, 3, 2, 8, 4),
    "dinov3": Size("dinov3", 32, 3, 2, 8, 4),
    "siglip2": Size("siglip2", 32, 3, 2, 8),
}
every_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
# As no published one is: its patches become tokens by convolutions.
CONVOLUTIONS = {
    name: size._replace(embedding="convolutions") for name, size in SIZES.items()
}
# Parameters of the published encoders at 224 pixels, counted by transformers 5.24.
PUBLISHED = {
    "clip_b32": 87_456_000,
    "clip_b16": 85_799_424,
    "clip_l14": 303_179_776,
    "dinov2_s14_reg": 21_630_336,
    "dinov3_s16": 21_596_160,
    "siglip2_b16": 92_884_224,
    "mae_b16": 85_798_656,
}
# What timm 1.0.31 calls the tensors of its models: vit_base_patch16_clip_224,
# vit_small_patch14_reg4_dinov2, vit_small_patch16_dinov3 and its twin with biases,
# vit_base_patch16_siglip_224, vit_base_patch16_224.mae. The leaves are weight and bias.
TIMM_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
TIMM_POOL = ("q", "kv", "proj", "norm", "mlp.fc1", "mlp.fc2")


def in_full(modules, but=()) -> set[str]:
    both = {f"{m}.{leaf}" for m in modules for leaf in ("weight", "bias")}
    return both - set(but)


def timm_names(style: str, *, biased: bool = False) -> set[str]:
    blocks = {f"blocks.{i}." + n for i in range(3) for n in in_full(TIMM_BLOCK)}
    found = blocks | in_full(["patch_embed.proj", "norm"]) | {"cls_token", "pos_embed"}
    if style == "clip":
        return (found | in_full(["norm_pre"])) - {"patch_embed.proj.bias"}
    if style == "dinov2 registers":
        scales = {f"blocks.{i}.ls{n}.gamma" for i in range(3) for n in (1, 2)}
        return found | scales | {"reg_token"}
    if style == "dinov3":
        scales = {f"blocks.{i}.gamma_{n}" for i in range(3) for n in (1, 2)}
        found = found | scales | {"reg_token"}
        found -= {"pos_embed", *(f"blocks.{i}.attn.qkv.bias" for i in range(3))}
        extra = {f"blocks.{i}.attn.{n}_bias" for i in range(3) for n in "qv"}
        return found | extra if biased else found
    if style == "siglip2":
        pool = {f"attn_pool.{name}" for name in in_full(TIMM_POOL)}
        return (found | pool | {"attn_pool.latent"}) - {"cls_token"}
    return found


def detector(size: Size, **fields: Any) -> FakeDetector:
    own = {
        "backbone": "vit",
        "vit_style": size.style,
        "width": size.width,
        "depth": size.depth,
        "num_heads": size.heads,
        "patch_size": size.patch,
        "registers": size.registers,
        "embedding": size.embedding,
        "lstm_features": 8,
        "dtype": "float32",
    }
    return FakeDetector(**{**own, **fields})


def drawn(shapes: Any, scale: float = 0.2) -> Any:
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape) * scale, jnp.float32), shapes
    )


def build(size: Size, pixels: int = 24, **fields: Any) -> Any:
    """A small detector with drawn variables, three clips and their lengths."""
    model = detector(size, **fields)
    frames = np.random.default_rng(1).integers(0, 256, (3, 4, pixels, pixels, 3))
    clips = frames.astype(np.uint8), np.array([4, 2, 1], np.int32)
    start = jax.eval_shape(
        functools.partial(model.init, train=False),
        jax.random.key(0),
        jax.ShapeDtypeStruct(frames.shape, "float32"),
        jax.ShapeDtypeStruct((3,), "int32"),
    )
    return model, drawn(start), clips


@pytest.mark.parametrize("sizes", [SIZES, CONVOLUTIONS], ids=["linear", "convs"])
@pytest.mark.parametrize("name", SIZES)
def test_the_shapes_are_those_of_the_model(name, sizes):
    size = sizes[name]
    _, variables, _ = build(size)
    made = {
        tuple(key.key for key in path): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(variables["params"]["backbone"])
    }
    assert made == vit.variable_shapes(size, 24)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_named_ones_have_the_published_number_of_parameters(name):
    shapes = vit.variable_shapes(VITS[name], 224)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == PUBLISHED[name]


@every_size
def test_features_equal_transformers(size, tmp_path):
    pytest.importorskip("transformers", reason="the extra bench is not installed")
    from benchmarks import parity

    peer = parity.hugging_face(size, 24)
    fields = parity.vit_fields(size)
    apart, largest, _ = parity.compare(peer, fields, size.style, 24, tmp_path)
    assert largest > 1 and apart < 1e-5


def test_positions_are_interpolated_as_transformers_does(tmp_path):
    pytest.importorskip("transformers", reason="the extra bench is not installed")
    from benchmarks import parity

    size = SIZES["dinov2 registers"]
    for stored, used in ((56, 24), (24, 40)):
        peer = parity.hugging_face(size, stored)
        fields = parity.vit_fields(size)
        apart, largest, _ = parity.compare(peer, fields, size.style, used, tmp_path)
        assert largest > 1 and apart < 1e-5


@pytest.mark.parametrize("old, new", [(7, 3), (3, 8), (4, 4)])
def test_positions_are_interpolated_by_cubic_convolution(old, new):
    rows = np.random.default_rng(0).normal(size=(1 + old * old, 5)).astype(np.float32)
    found = pretrained.fit_positions(rows, 1 + new * new)
    grid = jnp.asarray(rows[1:].reshape(old, old, 5))
    wanted = jax.image.resize(grid, (new, new, 5), "cubic").reshape(-1, 5)
    np.testing.assert_allclose(found[1:], wanted, atol=1e-5)
    np.testing.assert_array_equal(found[0], rows[0])
    without = pretrained.fit_positions(rows[1:], 1 + new * new)
    assert (without[0] == 0).all()
    np.testing.assert_array_equal(without[1:], found[1:])


@pytest.mark.parametrize("style", [s for s in SIZES if s != "dinov2"])
def test_timms_names_are_known(style):
    wanted = [timm_names(style)]
    wanted += [timm_names(style, biased=True)] if style == "dinov3" else []
    _, *found = names.schemes(SIZES[style])
    assert [{s.name for s in scheme.values() if s} for scheme in found] == wanted


def write_timm(
    size: Size, path, *, biased: bool = False, scale: float = 1.0
) -> dict[str, np.ndarray]:
    """A file in timm's names and layout with drawn tensors; what it holds."""
    scheme = names.schemes(size)[2 if biased else 1]
    shapes = vit.variable_shapes(size, 24)
    rng, tensors = np.random.default_rng(0), {}
    for key, source in scheme.items():
        if source is None:
            continue
        shape = shapes[key]
        if key[-1] == "kernel":
            shape = (shape[-1], *shape[-2:-1], *shape[:-2])
        shape = (shape[0] * source.parts, *shape[1:])
        tensors.setdefault(
            source.name, scale * rng.normal(size=shape).astype(np.float32)
        )
    save_file({**tensors, "head.weight": np.zeros((3, 32), np.float32)}, path)
    return tensors


@every_size
def test_a_file_of_timm_is_read(size, tmp_path):
    path = tmp_path / "timm.safetensors"
    tensors = write_timm(size, path)
    loaded = pretrained.load_backbone(path, detector(size), 24).params
    qkv = tensors["blocks.1.attn.qkv.weight"].reshape(3, 32, 32)
    attention = loaded["block1"]["attention"]
    for name, rows in zip(("query", "key", "value"), qkv, strict=True):
        np.testing.assert_array_equal(attention[name]["kernel"], rows.T)
    kernel = tensors["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(loaded["embed"]["kernel"], kernel)
    if size.style == "dinov3":
        assert (attention["query"]["bias"] == 0).all()
        tensors = write_timm(size, path, biased=True)
        loaded = pretrained.load_backbone(path, detector(size), 24).params
        found = loaded["block1"]["attention"]["value"]["bias"]
        np.testing.assert_array_equal(found, tensors["blocks.1.attn.v_bias"])


def test_a_file_of_a_larger_model_is_read_without_the_rest(tmp_path):
    size, path = SIZES["clip"], tmp_path / "clip.safetensors"
    scheme, shapes = names.schemes(size)[0], vit.variable_shapes(size, 24)
    tensors = {}
    for key, source in scheme.items():
        assert source is not None and source.parts == 1
        shape = shapes[key]
        if key[-1] == "kernel":
            shape = (shape[-1], *shape[-2:-1], *shape[:-2])
        tensors[f"vision_model.{source.name}"] = np.ones(shape, np.float16)
    rest = {
        "logit_scale": np.ones((), np.float32),
        "text_model.embeddings.token_embedding.weight": np.ones((4, 2), np.float32),
        "vision_model.embeddings.position_ids": np.arange(10)[None],
        "visual_projection.weight": np.ones((8, 32), np.float32),
    }
    save_file(tensors | rest, path)
    loaded = pretrained.load_backbone(path, detector(size), 24).params
    assert loaded["embed"]["pre_norm"]["scale"].dtype == np.float32
    save_file(tensors | {"vision_model.extra.weight": np.ones(3)}, path)
    with pytest.raises(CheckpointError, match="unexpected: vision_model.extra.weight"):
        pretrained.load_backbone(path, detector(size), 24)


def test_another_transformer_is_refused_with_its_size(tmp_path):
    path = tmp_path / "timm.safetensors"
    write_timm(SIZES["plain"], path)
    deeper = SIZES["plain"]._replace(depth=5)
    with pytest.raises(CheckpointError, match="has 3 blocks where vit has 5"):
        pretrained.check_fit(path, detector(deeper), 24)
    wider = SIZES["plain"]._replace(width=64)
    with pytest.raises(CheckpointError, match=r"\[96, 32\] instead of \[192, 64\]"):
        pretrained.check_fit(path, detector(wider), 24)
    tensors = load_file(path)
    save_file({**tensors, "pos_embed": np.zeros((1, 12, 32), np.float32)}, path)
    with pytest.raises(CheckpointError, match=r"pos_embed \[1, 12, 32\] instead of"):
        pretrained.check_fit(path, detector(SIZES["plain"]), 24)
    with pytest.raises(CheckpointError, match="names must be those of a Hugging Face"):
        save_file({"conv1.weight": np.zeros(3, np.float32)}, path)
        pretrained.check_fit(path, detector(SIZES["plain"]), 24)


@pytest.mark.parametrize(
    "size", [SIZES["dinov3"], SIZES["siglip2"], CONVOLUTIONS["plain"]], ids=str
)
def test_remat_and_bfloat16_compute_the_same_function(size):
    size = size._replace(depth=2)
    model, variables, (frames, length) = build(size, temporal="none")
    images = steps.normalise(model, frames / np.float32(255))

    def gradient(model):
        def total(params):
            return (model.apply({"params": params}, images, length) ** 2).sum()

        return jax.jit(jax.grad(total))(variables["params"])

    plain, saving = gradient(model), gradient(model.clone(remat=True))
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest),
        plain,
        saving,
    )
    logits = jax.jit(model.apply)(variables, images, length)
    short = model.clone(dtype="bfloat16")
    half = jax.jit(short.apply)(variables, images, length)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, logits, atol=0.1 * np.abs(logits).max())


@pytest.mark.parametrize("name", ["clip", "siglip2"])
def test_what_the_tokens_add_sums_to_the_logit(name):
    """Beyond clips whose tokens are all their mean; the picture is of the patches."""
    model, variables, clips = build(SIZES[name], temporal="none")
    length = jnp.asarray(clips[1])
    apply: Any = functools.partial(model.apply, variables)
    images = steps.normalise(model, clips[0] / np.float32(255))
    tokens = jax.jit(functools.partial(apply, method="backbone_features"))(images)
    head: Any = jax.jit(functools.partial(apply, method="head_from_features"))
    added = jax.jit(functools.partial(explain.token_contributions, head))(
        tokens, length
    )
    mean = jnp.broadcast_to(tokens.mean(axis=2, keepdims=True), tokens.shape)
    beyond = np.asarray(head(tokens, length) - head(mean, length))
    # Sixteen points stand for the way.
    np.testing.assert_allclose(added.sum(axis=(1, 2)), beyond, atol=2e-3, rtol=0.05)
    found = jax.jit(explain.explain_step, static_argnums=0)(model, variables, clips)
    assert found.heat.shape == (3, 4, 3, 3)
    prefix = SIZES[name].prefix
    picture = apply(added, method="places")
    np.testing.assert_array_equal(picture.reshape(3, 4, 9), added[..., prefix:])
    logits = jax.jit(steps.clip_logits, static_argnums=0)(model, variables, clips)
    np.testing.assert_allclose(found.logits, logits, atol=1e-5)
    beyond_clip = np.arange(4) >= clips[1][:, None]
    assert (np.asarray(found.heat)[beyond_clip] == 0).all()


@pytest.mark.parametrize("pixels", [24, 32])
@pytest.mark.parametrize("embedding", vit.EMBEDDINGS)
@pytest.mark.parametrize("name", ["plain", "clip", "dinov3", "siglip2"])
def test_onnx_computes_the_same_function(name, embedding, pixels):
    size = SIZES[name]._replace(embedding=embedding)
    runtime = pytest.importorskip("onnxruntime")
    model, variables, clips = build(size, pixels, unit_features=size.registers > 0)
    graph = serialised(model, variables, clips[0].shape[1:])
    session = runtime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        frames, length = (part[:count] for part in clips)
        score = jax.jit(steps.clip_outputs, static_argnums=0)
        expected = score(model, variables, (frames, length))
        batch = {"frames": frames, "length": length}
        found = [session.run(["logits", "features"], batch)]
        if find_spec("openvino"):
            found.append(runtimes.start("openvino", graph)(frames, length))
        for side in found:
            for one, wanted in zip(side, expected, strict=True):
                np.testing.assert_allclose(np.asarray(one), wanted, atol=1e-4)


@pytest.mark.parametrize(
    "size", [SIZES["clip"], SIZES["dinov3"], CONVOLUTIONS["plain"]], ids=str
)
def test_a_program_takes_any_number_of_clips(size):
    from jax import export

    model, variables, clips = build(size)
    (count,) = export.symbolic_shape("clips")
    shapes = [
        jax.ShapeDtypeStruct((count, *part.shape[1:]), part.dtype) for part in clips
    ]
    score = jax.jit(lambda *clips: steps.clip_outputs(model, variables, clips))
    program = export.export(score, platforms=("cpu", "cuda", "tpu"))(*shapes)
    for one, wanted in zip(program.call(*clips), score(*clips), strict=True):
        np.testing.assert_allclose(one, wanted, atol=1e-5)


def test_pixels_are_scaled_as_each_backbone_expects():
    frames = jnp.full((1, 1, 1, 1, 3), 0.5)
    for backbone, style, wanted in (
        ("clip_l14", "plain", [0.0690, 0.1614, 0.3328]),
        ("siglip2_b16", "plain", [0, 0, 0]),
        ("dinov3_s16", "plain", [0.0655, 0.1964, 0.4178]),
        ("vit", "siglip2", [0, 0, 0]),
        ("resnet50", "plain", [0.0655, 0.1964, 0.4178]),
    ):
        model = FakeDetector(backbone=backbone, vit_style=style)
        found = steps.normalise(model, frames)[0, 0, 0, 0]
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_no_published_file_has_the_convolutions_of_an_embedding(tmp_path):
    """It says which weights are missing, and reads what a run of this kind exported."""
    linear = build(SIZES["plain"])[1]["params"]["backbone"]
    sources = names.schemes(SIZES["plain"])[0]
    flat = {
        source.name: np.zeros(1, np.float32) for source in sources.values() if source
    }
    assert "embed" in linear and "stem" not in linear["embed"]
    save_file(flat, tmp_path / "vit.safetensors")
    model = detector(CONVOLUTIONS["plain"])
    with pytest.raises(CheckpointError, match=r"embed\.stem\.conv0\.kernel"):
        pretrained.check_fit(tmp_path / "vit.safetensors", model, 24)


def test_a_token_of_convolutions_sees_more_than_its_patch():
    """And each place of the image reaches the token of the patch that it lies in."""
    embed: Any = vit.Embed(CONVOLUTIONS["plain"])
    image = np.zeros((1, 24, 24, 3), np.float32)
    params = embed.init(jax.random.key(0), image)

    def tokens(row: int, column: int) -> set[int]:
        changed = image.copy()
        changed[0, row, column] = 1
        one, two = (np.asarray(embed.apply(params, x)) for x in (image, changed))
        moved = np.abs(one - two).max(axis=(0, 2))[CONVOLUTIONS["plain"].prefix :]
        return set(np.flatnonzero(moved > 1e-6).tolist())

    for row in range(24):
        for column in range(24):
            assert 3 * (row // 8) + column // 8 in tokens(row, column)
    assert tokens(0, 0) == {0}
    assert tokens(8, 8) == {0, 1, 3, 4}


def test_rotary_positions_know_only_how_far_apart_patches_are():
    size = Size("dinov3", 16, 1, 2, 8)
    turn = vit.rotation(size, 16)
    assert turn is not None
    rng = np.random.default_rng(0)
    query, key = (jnp.asarray(rng.normal(size=8), jnp.float32) for _ in range(2))

    def score(first: int, second: int) -> float:
        one, two = jnp.zeros((2, 17, 1, 8))
        one, two = one.at[first + 1, 0].set(query), two.at[second + 1, 0].set(key)
        a, b = (vit._turned(x[None], turn)[0] for x in (one, two))
        return float(a[first + 1, 0] @ b[second + 1, 0])

    assert score(0, 5) == pytest.approx(score(10, 15), abs=1e-5)
    assert abs(score(0, 5) - score(0, 6)) > 1e-3
    cosine, sine = turn
    assert (cosine[0] == 1).all() and (sine[0] == 0).all()  # the class token stays


def test_attention_on_a_gpu_takes_the_fused_kernel(monkeypatch):
    """Where cuDNN has it: in bfloat16 and heads of a multiple of eight features."""
    asked = []
    real = jax.nn.dot_product_attention

    def spy(*args, implementation, **options):
        asked.append(implementation)
        return real(*args, implementation="xla", **options)

    class Hopper:
        compute_capability = "9.0"

    monkeypatch.setattr(jax, "local_devices", lambda backend: [Hopper()])
    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
    for dtype, each, fused in (
        (jnp.bfloat16, 64, True),
        (jnp.float32, 64, False),
        (jnp.bfloat16, 12, False),
    ):
        asked.clear()
        x = jnp.ones((1, 5, 2, each), dtype)
        jax.make_jaxpr(vit.attend)(x, x, x)
        assert ("cudnn" in asked) == fused


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"vit_style": "beit"}, "vit_style is 'beit'; use one of plain, clip"),
        ({"num_heads": 5}, "width 32 does not divide by 5"),
        ({"vit_style": "dinov3", "num_heads": 16}, "and four for rotary positions"),
        ({"embedding": "conv"}, "use one of linear, convolutions"),
        ({"embedding": "convolutions", "patch_size": 14}, "halve the side: patch_size"),
        ({"embedding": "convolutions", "patch_size": 2}, "another power of two"),
        ({"freeze_stages": 1}, "set config.trainable instead"),
        ({"stem": "small"}, "stem is 'small', but the backbone 'vit' fixes it"),
        ({"backbone": "clip_l14"}, "backbone to 'resnet' or 'convnext' or 'vit' to"),
        (
            {**network.OWN_VIT, "backbone": "resnet50", "unit_features": True},
            "unit_features needs a transformer or a ConvNeXt",
        ),
    ],
    ids=str,
)
def test_fields_without_meaning_are_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        network.check_fields(detector(SIZES["plain"], **fields))


def test_images_that_are_not_cut_evenly_name_the_nearest():
    model = FakeDetector("clip_l14")
    network.check_image_size(model, 224)
    with pytest.raises(ConfigError, match="256 .* 14 pixels .* nearest is 252"):
        network.check_image_size(model, 256)


def test_positions_begin_as_waves_of_their_places():
    found = np.asarray(vit._waves(jax.random.key(0), (1 + 9, 10)))
    assert (found[0] == 0).all() and (found[:, 8:] == 0).all()
    rows = found[1:, :8].reshape(3, 3, 2, 4)
    np.testing.assert_allclose(rows[2, 0, 0, 0], np.sin(2), atol=1e-6)  # down
    np.testing.assert_allclose(rows[0, 2, 1, 0], np.sin(2), atol=1e-6)  # right
    assert ViT(SIZES["plain"]).size.prefix == 1


@pytest.mark.parametrize("patch", [4, 8, 16])
def test_patches_begin_with_all_frequencies(patch):
    # Pictures whose amplitude falls as 1/f, as natural ones' does.
    rng = np.random.default_rng(0)
    rate = np.hypot(*np.meshgrid(np.fft.fftfreq(48), np.fft.fftfreq(48)))
    fall = 1 / np.maximum(rate, 1 / 48)
    pictures = np.fft.ifft2(np.fft.fft2(rng.normal(size=(64, 3, 48, 48))) * fall).real
    pictures = (pictures / pictures.std()).transpose(0, 2, 3, 1).astype(np.float32)
    side = 48 // patch
    cut = pictures.reshape(64, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    mean = np.broadcast_to(cut.mean(axis=(3, 4), keepdims=True), cut.shape)
    mean = mean.transpose(0, 1, 3, 2, 4, 5).reshape(pictures.shape)

    embed: Any = vit.Embed(Size("plain", 256, 1, 1, patch))
    params = {**embed.init(jax.random.key(0), pictures)["params"]}
    params["positions"] *= 0
    tokens, of_means = (
        np.asarray(embed.apply({"params": params}, x)) for x in (pictures, mean)
    )

    assert 1 < tokens.std() < 3
    # With equal weights it is 0.54, 0.38 and 0.20 for patches of 4, 8 and 16.
    assert of_means.var() < 0.02 * tokens.var()
