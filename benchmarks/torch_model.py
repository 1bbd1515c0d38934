"""The peer: the same ResNet + LSTM in PyTorch, with torchvision's names and layout."""

# pyright: reportMissingImports=false

import numpy as np
import torch
from torch import nn

# As fakedetect_jax.models.BACKBONES, written again so that neither leans on the other.
STAGES = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 (which takes the stride), 1x1."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool):
        """`width` is that of the 3x3 convolution."""
        super().__init__()
        self.bottleneck = bottleneck
        outputs = width * 4 if bottleneck else width
        if bottleneck:
            self.conv1 = _conv(inputs, width, 1)
            self.conv2 = _conv(width, width, 3, stride)
            self.conv3, self.bn3 = _conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        else:
            self.conv1 = _conv(inputs, width, 3, stride)
            self.conv2 = _conv(width, outputs, 3)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            project = _conv(inputs, outputs, 1, stride)
            self.downsample = nn.Sequential(project, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N,C,H,W] -> [N,outputs,H/stride,W/stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        if self.bottleneck:
            x = self.bn3(self.conv3(torch.relu(x)))
        return torch.relu(x + shortcut)


class ResNet(nn.Module):
    """The convolutional part of a torchvision ResNet."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, name: str):
        """`name` is one of STAGES."""
        super().__init__()
        sizes, bottleneck = STAGES[name]
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage, count in enumerate(sizes):
            width, blocks = 64 * 2**stage, []
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(Block(inputs, width, stride, bottleneck))
                inputs = width * 4 if bottleneck else width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.features = inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images [N,3,H,W] -> the last feature map."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return x


class Detector(nn.Module):
    """ResNet per frame, LSTM over time, the logit of the last state."""

    def __init__(self, name: str, lstm_features: int):
        """The LSTM has one bias as flax's has: torch's second one stays zero."""
        super().__init__()
        self.backbone = ResNet(name)
        self.lstm = nn.LSTM(self.backbone.features, lstm_features, batch_first=True)
        self.lstm.get_parameter("bias_ih_l0").requires_grad_(False).zero_()
        self.head = nn.Linear(lstm_features, 1)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Normalised clips [B,T,3,H,W] -> logits [B]."""
        images = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        features = self.backbone(images).mean((2, 3)).unflatten(0, frames.shape[:2])
        return self.head(self.lstm(features)[0][:, -1])[:, 0]


def copy_weights(model: nn.Module, weights: dict[str, np.ndarray]) -> None:
    """The project's parameters ("backbone/layer1_0/conv1/kernel", …) into the peer."""
    state = model.state_dict()

    def put(name: str, array: np.ndarray) -> None:
        state[name].copy_(torch.tensor(array))

    leaves = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    for name, array in weights.items():
        place, *modules, leaf = name.split("/")
        if place != "backbone":
            continue
        path = ".".join(modules).replace("downsample_conv", "downsample.0")
        path = path.replace("downsample_bn", "downsample.1").replace("_", ".")
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        put(f"backbone.{path}.{leaves[leaf]}", array)
    cell = "lstm/forward"
    for part, name in (("i", "weight_ih_l0"), ("h", "weight_hh_l0")):
        gates = [weights[f"{cell}/{part}{gate}/kernel"].T for gate in "ifgo"]
        put(f"lstm.{name}", np.concatenate(gates))
    biases = [weights[f"{cell}/h{gate}/bias"] for gate in "ifgo"]
    put("lstm.bias_hh_l0", np.concatenate(biases))
    put("head.weight", weights["head/kernel"].T)
    put("head.bias", weights["head/bias"])
