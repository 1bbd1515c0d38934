"""The fields of config.augment, and what each may be. Knows no jax."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fakedetect_jax.errors import ConfigError
from tfds_ffpp.fields import SHARE, Choice, Number, Rule, Whole


class Augmentation(NamedTuple):
    """The fields of config.augment. A probability is that of a clip being changed;
    at 0 the operation is not even compiled."""

    flip: float = 0.0  # probability of left-right mirroring
    crop: float = 0.0  # probability of zooming and shifting the window
    crop_scale: float = 0.1  # zoom factor within 1 +- this
    crop_shift: float = 0.05  # shift within +- this, in sides
    blur: float = 0.0  # probability of Gaussian blur
    blur_sigma: float = 1.5  # pixels, from 0 up to this
    downscale: float = 0.0  # probability of shrinking and enlarging again
    downscale_factor: float = 3.0  # from 1 up to this, log-uniform
    brightness_contrast: float = 0.0  # probability
    brightness: float = 0.15  # added, within +- this
    contrast: float = 0.2  # factor about mid-grey within 1 +- this
    hue_saturation: float = 0.0  # probability
    hue: float = 0.03  # turns of the colour circle, within +- this
    saturation: float = 0.3  # factor within 1 +- this
    gamma: float = 0.0  # probability
    gamma_octaves: float = 0.3  # exponent 2**u, u within +- this
    noise: float = 0.0  # probability of Gaussian noise, drawn anew for each frame
    noise_sigma: float = 0.03  # of full scale, from 0 up to this
    jpeg: float = 0.0  # probability of JPEG compression
    jpeg_quality: int = 40  # libjpeg's scale, from this to 100
    jpeg_subsampling: str = "420"  # chroma: 420 | 444
    frame_drop: float = 0.0  # probability of a clip losing frames
    frame_drop_rate: float = 0.2  # chance of each frame to repeat the one before
    cutout: float = 0.0  # probability of a grey rectangle
    cutout_side: float = 0.4  # its sides, in sides of the frame, up to this


# Each operation's probability field; its place is its random stream, so append only.
OPERATIONS = (
    "flip",
    "crop",
    "blur",
    "downscale",
    "brightness_contrast",
    "hue_saturation",
    "gamma",
    "noise",
    "jpeg",
    "frame_drop",
    "cutout",
)


# What each field may be.
FIELDS: dict[str, Rule] = {
    **dict.fromkeys(Augmentation._fields, SHARE),
    "blur_sigma": Number(0, 100),
    "downscale_factor": Number(1, 16),
    "gamma_octaves": Number(0, 4),
    "jpeg_quality": Whole(1, 100),
    "jpeg_subsampling": Choice(("420", "444")),
}


def parse(config: Mapping[str, Any]) -> Augmentation:
    """config.augment, checked; absent fields keep their defaults.

    Raises:
      ConfigError: a field is unknown or out of range.
    """
    unknown = sorted(set(config) - set(Augmentation._fields))
    if unknown:
        raise ConfigError(
            f"config.augment has no field {unknown[0]}; "
            f"there are {', '.join(Augmentation._fields)}"
        )
    for name, value in config.items():
        wanted = FIELDS[name].fault(value)
        if wanted:
            raise ConfigError(
                f"config.augment.{name} is {value!r}; it must be {wanted}"
            )
    return Augmentation(**config)
