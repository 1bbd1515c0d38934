"""Whether a backbone of transformers or timm, read here, has the same features.

python -m benchmarks.parity [--only NAME]

Each peer gets random weights, is saved as its library saves it, and is loaded with
config.init_from's code; both see the same images in float32. Needs the extra bench.
Where timm is installed too, with the torchvision that was made for that torch (the CPU
build of the extra has none on PyPI), its models stand beside; else they are left out.
"""

# pyright: reportMissingImports=false, reportMissingModuleSource=false

import argparse
import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import table

# Ours -> the name in timm, with what its default differs in; see docs/weights.md.
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "clip_b32": ("vit_base_patch32_clip_quickgelu_224", {}),
    "clip_b16": ("vit_base_patch16_clip_quickgelu_224", {}),
    "clip_l14": ("vit_large_patch14_clip_quickgelu_224", {}),
    "dinov2_s14": ("vit_small_patch14_dinov2", {}),
    "dinov2_s14_reg": ("vit_small_patch14_reg4_dinov2", {}),
    "dinov3_s16": ("vit_small_patch16_dinov3", {"global_pool": "token"}),
    "siglip2_b16": ("vit_base_patch16_siglip_224.v2_webli", {"act_layer": "gelu_tanh"}),
    "mae_b16": ("vit_base_patch16_224.mae", {}),
}
BIASED = ("vit_small_patch16_dinov3_qkvb", {"global_pool": "token"})
# Stored for another image size than they are used at: ours, stored, used.
RESIZED = (("dinov2_s14_reg", 518, 224), ("dinov2_s14_reg", 224, 280))


def hugging_face(size: Any, image_size: int) -> Any:
    """transformers' model of that size."""
    import transformers

    common = {
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.heads,
        "patch_size": size.patch,
        "image_size": image_size,
    }
    inner, registers = {"intermediate_size": size.inner}, size.registers
    if size.style == "clip":
        config = transformers.CLIPVisionConfig(**common, **inner)
        return transformers.CLIPVisionModel(config)
    if size.style == "siglip2":
        config = transformers.SiglipVisionConfig(**common, **inner)
        return transformers.SiglipVisionModel(config)
    if size.style == "dinov3":
        config = transformers.DINOv3ViTConfig(
            **common, **inner, num_register_tokens=registers
        )
        return transformers.DINOv3ViTModel(config)
    if size.style == "dinov2" and registers:
        config = transformers.Dinov2WithRegistersConfig(
            **common, num_register_tokens=registers
        )
        return transformers.Dinov2WithRegistersModel(config)
    if size.style == "dinov2":
        return transformers.Dinov2Model(transformers.Dinov2Config(**common))
    config = transformers.ViTConfig(**common, **inner)  # named as ViTMAE's encoder is
    return transformers.ViTModel(config, add_pooling_layer=False)


def hugging_face_convnext(name: str) -> Any:
    """transformers' ConvNeXt of a name."""
    import transformers

    from fakedetect_jax.model.backbones.convnext import CONVNEXTS

    size = CONVNEXTS[name]
    config = transformers.ConvNextConfig(
        depths=list(size.depths), hidden_sizes=list(size.widths)
    )
    return transformers.ConvNextModel(config)


# Ours -> the name in timm, which is torchvision's too.
EFFICIENTNETS = ("efficientnet_b0", "efficientnet_b4")
CONVNEXTS = {"convnext_t": "convnext_tiny", "convnext_b": "convnext_base"}


def draw(model: Any) -> None:
    """Weights with which every tensor matters: neither zeros nor tiny scales."""
    import torch

    torch.manual_seed(0)
    for name, weight in model.state_dict().items():
        noise = torch.randn(weight.shape)
        rows = weight.squeeze()
        if name.endswith(("lambda1", "gamma", "gamma_1", "gamma_2", "_parameter")):
            weight.copy_(0.5 + 0.1 * noise)
        elif name.endswith("running_var"):
            weight.copy_(1 + 0.1 * noise)
        elif name.endswith("num_batches_tracked"):
            continue
        elif rows.ndim < 2:
            weight.copy_(0.1 * noise + (name.endswith("weight") and weight.ndim < 2))
        elif "." not in name or "embeddings.pos" in name or "token" in name:
            weight.copy_(0.5 * noise)
        else:
            weight.copy_(noise / rows[0].numel() ** 0.5)


def peer_features(model: Any, images: np.ndarray, style: str) -> np.ndarray:
    """The features [N,D] of normalised images [N,H,W,3], as the family takes them."""
    import torch

    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        if hasattr(model, "avgpool"):  # torchvision's
            return model.avgpool(model.features(pixels)).flatten(1).numpy()
        if hasattr(model, "forward_head"):
            tokens = model.forward_features(pixels)
            if style == "plain":
                return tokens[:, model.num_prefix_tokens :].mean(1).numpy()
            return model.forward_head(tokens, pre_logits=True).numpy()
        found = model(pixels)
    if style == "plain":
        return found.last_hidden_state[:, 1:].mean(1).numpy()
    return found.pooler_output.numpy()


def vit_fields(size: Any) -> dict[str, Any]:
    """What config.model says of a transformer of that size."""
    from fakedetect_jax.model.backbones import vit

    names = [name for name, known in vit.VITS.items() if known == size]
    own: dict[str, Any] = dict(
        backbone="vit",
        vit_style=size.style,
        width=size.width,
        depth=size.depth,
        num_heads=size.heads,
        patch_size=size.patch,
        registers=size.registers,
    )
    return {"backbone": names[0]} if names else own


def own_features(path: Path, fields: dict[str, Any], images: np.ndarray) -> np.ndarray:
    """Of the same images, from the file."""
    import jax

    from fakedetect_jax.model import network, pretrained

    model = network.FakeDetector(**fields, dtype="float32")
    loaded = pretrained.load_backbone(path, model, images.shape[1])

    def features(params: Any, images: Any) -> Any:
        return model.apply(
            {collection: {"backbone": tree} for collection, tree in params.items()},
            images[:, None],
            method=lambda m, x: m.frame_features(m.backbone_features(x))[:, 0],
        )

    return np.asarray(jax.jit(features)(loaded._asdict(), images))


def compare(
    model: Any, fields: dict[str, Any], style: str, image_size: int, folder: Path
) -> tuple[float, float, int]:
    """The largest difference of a feature, the largest feature, tensors of the file."""
    from safetensors.torch import save_file

    draw(model.eval())
    path = folder / "model.safetensors"
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:  # as timm writes what it pushes to the Hub
        save_file(model.state_dict(), path)
    shape = (2, image_size, image_size, 3)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    wanted = peer_features(model, images, style)
    found = own_features(path, fields, images)
    apart = float(np.abs(found - wanted).max())
    return apart, float(np.abs(wanted).max()), len(model.state_dict())


def main() -> None:
    """Prints a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one backbone")
    table.add_option(parser)
    options = parser.parse_args()
    with table.results(parser, options) as results:
        measure(options.only, results)


def measure(only: str | None, results: table.Results) -> None:
    """Compares every model that is installed."""
    import transformers

    from fakedetect_jax.model.backbones import vit

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    has_timm = importlib.util.find_spec("timm") is not None
    results.say(_versions(has_timm))
    results.heads("backbone", "peer", "pixels", "tensors", "apart", "largest", "s")

    def row(name: str, peer: str, model: Any, image_size: int, shown: str = "") -> None:
        start = time.perf_counter()
        size = vit.VITS.get(name)
        fields = vit_fields(size) if size else {"backbone": name}
        style = size.style if size else ""
        with tempfile.TemporaryDirectory() as folder:
            apart, largest, count = compare(
                model, fields, style, image_size, Path(folder)
            )
        seconds = f"{time.perf_counter() - start:.0f}"
        shown = shown or str(image_size)
        numbers = (f"{apart:.1e}", f"{largest:.1f}")
        results.row(name, peer, shown, count, *numbers, seconds)

    for name, size in vit.VITS.items():
        if only not in (None, name) or name not in TIMM:
            continue
        image_size = 224 // size.patch * size.patch
        row(name, "transformers", hugging_face(size, image_size), image_size)
        if has_timm:
            import timm

            peers = [TIMM[name], *([BIASED] if name == "dinov3_s16" else [])]
            for peer, options in peers:
                sized = {} if size.style == "dinov3" else {"img_size": image_size}
                model = timm.create_model(peer, num_classes=0, **sized, **options)
                row(name, f"timm {peer}", model, image_size)
    for name, peer in CONVNEXTS.items():
        if only in (None, name):
            row(name, "transformers", hugging_face_convnext(name), 224)
            if has_timm:
                import timm

                model = timm.create_model(peer, num_classes=0)
                row(name, f"timm {peer}", model, 224)
    for name in EFFICIENTNETS if has_timm else ():
        if only in (None, name):
            import timm
            import torchvision

            row(name, f"timm {name}", timm.create_model(name, num_classes=0), 224)
            model = torchvision.models.get_model(name)
            row(name, "torchvision", model, 224)
    for name, stored, used in RESIZED:
        if only in (None, name):
            model = hugging_face(vit.VITS[name], stored)
            row(name, "transformers", model, used, f"{used}, stored for {stored}")


def _versions(has_timm: bool) -> str:
    from importlib import metadata

    packages = ["torch", "transformers", *(["timm"] if has_timm else [])]
    return f"Peers: {', '.join(f'{p} {metadata.version(p)}' for p in packages)}."


if __name__ == "__main__":
    main()
