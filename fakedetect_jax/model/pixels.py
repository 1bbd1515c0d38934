"""How pixels are normalised; apart, for what describes a model without JAX."""

from typing import NamedTuple

Channels = tuple[float, float, float]


class Scale(NamedTuple):
    """Mean and deviation of RGB in [0, 1], as a backbone's weights expect."""

    mean: Channels
    std: Channels


# ImageNet's, as torchvision's and timm's ResNets, DINO and MAE expect.
IMAGENET = Scale((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = Scale((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SIGLIP = Scale((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def scale_of(backbone: str, vit_style: str) -> Scale:
    """The scale of a config's model.backbone and model.vit_style."""
    style = vit_style if backbone == "vit" else backbone.split("_")[0]
    return {"clip": CLIP, "siglip2": SIGLIP}.get(style, IMAGENET)
