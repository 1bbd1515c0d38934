"""What Hugging Face, timm and torchvision call the tensors of backbones."""

import re
from typing import NamedTuple

from fakedetect_jax.model.backbones import convnext, efficientnet
from fakedetect_jax.model.backbones.vit import Size, variable_shapes

Key = tuple[str, ...]


class Source(NamedTuple):
    """A tensor of a file, or one of several equal parts of its rows."""

    name: str
    part: int = 0
    parts: int = 1

    def below(self, begin: str) -> "Source":
        """The same of a module of that name."""
        return self._replace(name=begin + self.name)


Scheme = dict[Key, Source | None]  # None: the file leaves it out, and it is zero
# Our module -> theirs, whose leaves follow; or our variable -> theirs.
Names = dict[str, Source]

_LEAVES = {
    **{"kernel": "weight", "scale": "weight", "bias": "bias"},
    **{"mean": "running_mean", "var": "running_var"},
}


def _names(**names: str | Source) -> Names:
    return {
        ours.replace("__", "/"): Source(theirs) if isinstance(theirs, str) else theirs
        for ours, theirs in names.items()
    }


def _below(ours: str, theirs: str, names: Names) -> Names:
    return {f"{ours}/{k}": source.below(theirs) for k, source in names.items()}


def _attention(query: str, key: str, value: str, out: str) -> Names:
    of = {"query": query, "key": key, "value": value, "out": out}
    return _names(**{f"attention__{name}": theirs for name, theirs in of.items()})


def _fused(name: str, out: str) -> Names:
    """Query, key and value one below the other in one tensor."""
    kinds = enumerate(("query", "key", "value"))
    parts = {f"attention/{kind}": Source(name, i, 3) for i, kind in kinds}
    return parts | _names(attention__out=out)


_MLP = {"mlp/in": Source("mlp.fc1."), "mlp/out": Source("mlp.fc2.")}
_NORMS = {"norm1": Source("norm1."), "norm2": Source("norm2.")}

_CLIP_BLOCK = {
    **_names(norm1="layer_norm1.", norm2="layer_norm2."),
    **_below(
        "attention",
        "self_attn.",
        _names(query="q_proj.", key="k_proj.", value="v_proj.", out="out_proj."),
    ),
    **_MLP,
}
_SIGLIP_POOL = {
    **_names(probe="probe", norm="layernorm."),
    **_fused("attention.in_proj_", "attention.out_proj."),
    **_MLP,
}
CLIP = {
    **_names(
        embed="embeddings.patch_embedding.",
        embed__positions="embeddings.position_embedding.weight",
        embed__pre_norm="pre_layrnorm.",
        norm="post_layernorm.",
    ),
    "embed/class_token": Source("embeddings.class_embedding"),
    **_below("block", "encoder.layers.{}.", _CLIP_BLOCK),
    **_below("attention_pool", "head.", _SIGLIP_POOL),
}
_DINO_ATTENTION = _attention(
    "attention.attention.query.",
    "attention.attention.key.",
    "attention.attention.value.",
    "attention.output.dense.",
)
_DINO_SCALES = _names(scale1="layer_scale1.lambda1", scale2="layer_scale2.lambda1")
_DINOV2_BLOCK = {**_NORMS, **_DINO_ATTENTION, **_DINO_SCALES, **_MLP}
_PLAIN_BLOCK = {
    **_names(norm1="layernorm_before.", norm2="layernorm_after."),
    **_DINO_ATTENTION,
    **_names(mlp__in="intermediate.dense.", mlp__out="output.dense."),
}
_DINOV3_BLOCK = {
    **_NORMS,
    **_attention(*(f"attention.{letter}_proj." for letter in "qkvo")),
    **_DINO_SCALES,
    **_names(mlp__in="mlp.up_proj.", mlp__out="mlp.down_proj."),
}
_DINO_EMBED = {
    "embed": Source("embeddings.patch_embeddings.projection."),
    "embed/class_token": Source("embeddings.cls_token"),
    "embed/positions": Source("embeddings.position_embeddings"),
    "embed/registers": Source("embeddings.register_tokens"),
    "norm": Source("layernorm."),
}
DINOV2 = {**_DINO_EMBED, **_below("block", "encoder.layer.{}.", _DINOV2_BLOCK)}
PLAIN = {**_DINO_EMBED, **_below("block", "encoder.layer.{}.", _PLAIN_BLOCK)}
DINOV3 = {
    **_DINO_EMBED,
    **_names(embed="embeddings.patch_embeddings.", norm="norm."),
    **_below("block", "layer.{}.", _DINOV3_BLOCK),
}
_TIMM_EMBED = {
    "embed": Source("patch_embed.proj."),
    "embed/class_token": Source("cls_token"),
    "embed/positions": Source("pos_embed"),
    "embed/registers": Source("reg_token"),
    "embed/pre_norm": Source("norm_pre."),
    "norm": Source("norm."),
}
_TIMM_BLOCK = {
    **_NORMS,
    **_fused("attn.qkv.", "attn.proj."),
    **_names(scale1="ls1.gamma", scale2="ls2.gamma"),
    **_MLP,
}
_TIMM_POOL = {
    **_names(probe="latent", norm="norm.", attention__query="q."),
    **_names(attention__key=Source("kv.", 0, 2), attention__value=Source("kv.", 1, 2)),
    **_names(attention__out="proj."),
    **_MLP,
}
TIMM = {
    **_TIMM_EMBED,
    **_below("block", "blocks.{}.", _TIMM_BLOCK),
    **_below("attention_pool", "attn_pool.", _TIMM_POOL),
}
# timm has each DINOv3 with biases of query and value, and without: they are zero.
_BIASES = ("block/attention/query/bias", "block/attention/value/bias")
_TIMM_DINOV3_BLOCK = {**_TIMM_BLOCK, **_names(scale1="gamma_1", scale2="gamma_2")}
TIMM_DINOV3 = {**_TIMM_EMBED, **_below("block", "blocks.{}.", _TIMM_DINOV3_BLOCK)}
TIMM_DINOV3_BIASED = {
    **TIMM_DINOV3,
    _BIASES[0]: Source("blocks.{}.attn.q_bias"),
    _BIASES[1]: Source("blocks.{}.attn.v_bias"),
}
OF_STYLE = {
    "plain": (PLAIN, TIMM),
    "clip": (CLIP, TIMM),
    "siglip2": (CLIP, TIMM),
    "dinov2": (DINOV2, TIMM),
    "dinov3": (DINOV3, TIMM_DINOV3, TIMM_DINOV3_BIASED),
}
# What stands before every name in a file of a larger model, and what else such a file
# holds that features have no use for.
PREFIXES = (
    *("vision_model.", "vit.", "dinov2.", "dinov2_with_registers.", "convnext."),
)
UNUSED = (
    *("text_model.", "text_projection.", "visual_projection.", "logit_", "decoder."),
    *("classifier.", "pooler.", "head.weight", "head.bias", "fc_norm."),
    *("embeddings.mask_token", "embeddings.position_ids", "head.fc."),
)


def schemes(size: Size) -> list[Scheme]:
    """The names that files of such a transformer may have, of Hugging Face and timm."""
    keys = list(variable_shapes(size, size.patch))
    return [
        {key: _source(key, names) for key in keys} for names in OF_STYLE[size.style]
    ]


def _source(key: Key, names: Names) -> Source | None:
    top, *rest = key
    number = re.fullmatch(r"block(\d+)", top)
    index = number[1] if number else ""
    path = ["block" if number else top, *rest]
    whole = names.get("/".join(path))
    if whole is not None:
        return whole._replace(name=whole.name.format(index))
    if "/".join(path) in _BIASES and names is TIMM_DINOV3:
        return None
    module = names.get("/".join(path[:-1]))
    if module is None:  # an embedding's convolutions, which no published file has
        return Source(".".join(key))
    return module._replace(name=module.name.format(index) + _LEAVES[path[-1]])


# ConvNeXt --------------------------------------------------------------------------

_HF_BLOCK = "encoder.stages.{}.layers.{}."
_HF_DOWN = "encoder.stages.{}.downsampling_layer."
# Our module or variable -> Hugging Face's and timm's; {} stage and block, from 0.
_CONVNEXT = {
    "stem": ("embeddings.patch_embeddings.", "stem.0."),
    "pre_norm": ("embeddings.layernorm.", "stem.1."),
    "norm": ("layernorm.", "head.norm."),
    "down/norm": (f"{_HF_DOWN}0.", "stages.{}.downsample.0."),
    "down/conv": (f"{_HF_DOWN}1.", "stages.{}.downsample.1."),
    "block/conv": (f"{_HF_BLOCK}dwconv.", "stages.{}.blocks.{}.conv_dw."),
    "block/norm": (f"{_HF_BLOCK}layernorm.", "stages.{}.blocks.{}.norm."),
    "block/in": (f"{_HF_BLOCK}pwconv1.", "stages.{}.blocks.{}.mlp.fc1."),
    "block/out": (f"{_HF_BLOCK}pwconv2.", "stages.{}.blocks.{}.mlp.fc2."),
    "block/scale": (f"{_HF_BLOCK}layer_scale_parameter", "stages.{}.blocks.{}.gamma"),
}


def convnext_schemes(size: convnext.Size) -> list[Scheme]:
    """The names that files of such a ConvNeXt may have, of Hugging Face and timm."""
    keys = list(convnext.variable_shapes(size))
    return [{key: Source(_convnext(key, peer)) for key in keys} for peer in (0, 1)]


def _convnext(key: Key, peer: int) -> str:
    top, *rest = key
    if not top.startswith("layer"):
        return _CONVNEXT[top][peer] + _LEAVES[rest[0]]
    stage, number = top.removeprefix("layer").split("_")
    down = number == "down"
    place = [int(stage) - 1, *([] if down else [int(number)])]
    kind = "down" if down else "block"
    name = _CONVNEXT[f"{kind}/{rest[0]}"][peer].format(*place)
    return name if rest == ["scale"] else name + _LEAVES[rest[1]]


# EfficientNet ----------------------------------------------------------------------

# Our module -> torchvision's and timm's; in the first stage, where blocks get no wider,
# the two that follow. Of torchvision's parts of a block the number is the first {}.
_EFFICIENTNET = {
    "conv1": ("0.0.", "conv_pw."),
    "bn1": ("0.1.", "bn1."),
    "conv2": ("{}.0.", "conv_dw."),
    "bn2": ("{}.1.", "bn2."),
    "squeeze": ("{}.fc1.", "se.conv_reduce."),
    "excite": ("{}.fc2.", "se.conv_expand."),
    "conv3": ("{}.0.", "conv_pwl."),
    "bn3": ("{}.1.", "bn3."),
}
_PARTS = {"conv2": 1, "bn2": 1, "squeeze": 2, "excite": 2, "conv3": 3, "bn3": 3}
_NOT_WIDER = {"bn2": "bn1.", "conv3": "conv_pw.", "bn3": "bn2."}  # timm's
_EFFICIENTNET_ENDS = {
    "conv1": ("features.0.0.", "conv_stem."),
    "bn1": ("features.0.1.", "bn1."),
    "conv": ("features.{}.0.", "conv_head."),
    "bn": ("features.{}.1.", "bn2."),
}


def efficientnet_schemes(size: efficientnet.Size) -> list[Scheme]:
    """The names that files of such an EfficientNet have, of torchvision and timm; keys
    begin with the collection."""
    keys = list(efficientnet.variable_shapes(size))
    wider = [stage.expand > 1 for stage in size.stages]
    return [
        {key: Source(_efficientnet(key, peer, wider)) for key in keys}
        for peer in (0, 1)
    ]


def _efficientnet(key: Key, peer: int, wider: list[bool]) -> str:
    _, top, *rest = key
    stage, _, number = top.removeprefix("layer").partition("_")
    if not number.isdigit():  # the stem, or what follows the last stage
        name = _EFFICIENTNET_ENDS[number or top][peer].format(len(wider) + 1)
        return name + _LEAVES[rest[0]]
    module, leaf = rest
    grows = wider[int(stage) - 1]
    if peer:
        own = _EFFICIENTNET[module][1]
        name = own if grows else _NOT_WIDER.get(module, own)
        return f"blocks.{int(stage) - 1}.{number}.{name}{_LEAVES[leaf]}"
    part = _PARTS.get(module, 0) - (not grows)
    name = _EFFICIENTNET[module][0].format(part)
    return f"features.{stage}.{number}.block.{name}{_LEAVES[leaf]}"
