"""What only model, dataset and files know of a config; no device is touched."""

import importlib.util

from fakedetect_jax import settings
from fakedetect_jax.augment.fields import parse
from fakedetect_jax.data.dataset import (
    dataset_config,
)
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.model import network, pretrained, trainable
from tfds_ffpp.store import copies


def check_weights(config) -> None:
    """Refuses an init_from that cannot work; touches no device.

    Raises CheckpointError.
    """
    if config.init_from:
        path = copies.here(config.init_from)
        image_size = config.dataset.image_size
        pretrained.check_fit(path, network.make_model(config), image_size)


def check_groups(config) -> None:
    """What only augmentation, model, dataset, tracker know of their fields; no device.

    Raises ConfigError or the dataset's SettingError.
    """
    if config.tracker and importlib.util.find_spec(config.tracker) is None:
        raise ConfigError(
            f"config.tracker is {config.tracker}, a package that is not installed: "
            f"pip install {config.tracker}"
        )
    parse(config.augment.to_dict())
    model = network.make_model(config)
    network.check_fields(model)
    network.check_image_size(model, config.dataset.image_size)
    trainable.check(model, trainable.of_config(config))
    try:
        dataset_config(config)
    except TypeError as error:
        field = str(error).split("argument ")[-1]
        raise ConfigError(
            f"config.dataset has the field {field}, which datasets do not have; "
            f"{settings.config_file('ffpp')} and FfppConfig list them"
        ) from error
