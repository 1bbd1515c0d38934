"""The peer of benchmarks.backends: the same detector, scored by PyTorch."""

# pyright: reportMissingImports=false

import copy
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flax import traverse_util
from torch import nn

from benchmarks import parity, step_workers, torch_model
from fakedetect_jax.model import network, pretrained
from fakedetect_jax.model.backbones.vit import VITS
from fakedetect_jax.model.pixels import scale_of
from fakedetect_jax.trained.model import TrainedModel, weights_digest

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Scorer(nn.Module):
    """uint8 clips [B,T,S,S,3] -> logits [B]: normalisation, features, LSTM, head."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: nn.Module, width: int, model: TrainedModel):
        """backbone: torch_model.ResNet, or a transformer of parity.hugging_face."""
        super().__init__()
        fields = model.config.model
        self.backbone = backbone
        self.lstm = nn.LSTM(width, fields.lstm_features, batch_first=True)
        self.head = nn.Linear(fields.lstm_features, 1)
        scale = scale_of(fields.backbone, fields.vit_style)
        self.register_buffer("mean", torch.tensor(scale.mean))
        self.register_buffer("std", torch.tensor(scale.std))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """The logit of the LSTM's last state."""
        images = (frames.float() / 255 - self.mean) / self.std
        images = images.flatten(0, 1).permute(0, 3, 1, 2)  # channels last in memory
        found = self.backbone(images)
        is_map = isinstance(found, torch.Tensor)
        features = found.mean((2, 3)) if is_map else found.pooler_output
        features = features.unflatten(0, frames.shape[:2])
        return self.head(self.lstm(features)[0][:, -1])[:, 0]


def with_peer(model: TrainedModel) -> tuple[TrainedModel, Scorer]:
    """The model and PyTorch's network of the same weights.

    A transformer's weights are drawn in PyTorch, and the model has them then too.
    """
    name, size = model.config.model.backbone, model.config.dataset.image_size
    flat: Any = traverse_util.flatten_dict(model.variables["params"], sep="/")
    if name in VITS:
        vit = parity.hugging_face(VITS[name], size)
        with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            parity.draw(vit)
            vit.save_pretrained(folder)
            made = network.make_model(model.config)
            (path,) = Path(folder).glob("*.safetensors")
            loaded = pretrained.load_backbone(path, made, size)
        params = {**model.variables["params"], "backbone": loaded.params}
        variables = {**model.variables, "params": params}
        model = model._replace(variables=variables, digest=weights_digest(variables))
        scorer = Scorer(vit, VITS[name].width, model)
        flat = {key: leaf for key, leaf in flat.items() if "backbone/" not in key}
    else:
        resnet = torch_model.ResNet(name)
        scorer = Scorer(resnet, resnet.features, model)
    with torch.no_grad():
        scorer.lstm.get_parameter("bias_ih_l0").zero_()  # flax has one bias
        torch_model.copy_weights(scorer, flat)
    scorer.eval().to(memory_format=torch.channels_last)  # pyright: ignore
    return model, scorer


def open_way(scorer: Scorer, way: str, dtype: str) -> Score:
    """frames uint8[B,T,S,S,3], lengths that are not looked at -> logits float32[B].

    frozen: by torch.compile with the weights folded into the program, which is made by
    the first call. bfloat16: by autocast.
    """
    forward: Callable = scorer
    if way == "frozen":
        forward = torch.compile(copy.deepcopy(scorer).eval())
    return functools.partial(_score, forward, way, dtype)


def _score(
    forward: Callable, way: str, dtype: str, frames: np.ndarray, length: np.ndarray
) -> np.ndarray:
    del length
    half = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    freezing = step_workers.inductor_config(freezing=way == "frozen")
    with torch.inference_mode(), half, freezing:
        return forward(torch.from_numpy(frames)).float().numpy()
