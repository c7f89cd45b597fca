"""Networks in PyTorch with the modules, names and file layouts of published ones.

`Layers` chooses the layers: plain ones, those of HYDRA, which keep the largest scores, or those of
HARP, in which each layer has a rate of its own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class _Scored:
    """Mixin: a layer that keeps the weights of the largest scores."""

    k = 1.0
    mask: tuple[Any, torch.Tensor] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.popup_scores = nn.Parameter(torch.randn_like(self.weight))

    def rate(self) -> Any:
        return self.k

    def kept_weight(self) -> torch.Tensor:
        made_for = (self.popup_scores._version, self.popup_scores.dtype, float(self.rate()))
        if self.mask is None or self.mask[0] != made_for:  # sorting takes longer than the rest
            magnitudes = self.popup_scores.detach().abs().flatten()
            mask = torch.ones_like(magnitudes)
            mask[magnitudes.argsort()[: int((1 - self.rate()) * magnitudes.numel())]] = 0
            self.mask = (made_for, mask.view_as(self.weight))
        return self.weight * self.mask[1]


class _Rated(_Scored):
    """Mixin: HARP's layer, with a rate that depends on a trained scalar."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.k_score = nn.Parameter(torch.randn([]) - 2)

    def rate(self) -> torch.Tensor:
        least = 0.1 * self.k
        return torch.sigmoid(self.k_score.detach()) * (1 - least) + least


class _ScoredConv(_Scored, nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.kept_weight(), self.bias)


class _ScoredLinear(_Scored, nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.kept_weight(), self.bias)


class _RatedConv(_Rated, _ScoredConv): ...


class _RatedLinear(_Rated, _ScoredLinear): ...


class Layers:
    """The classes of layers: ``"plain"``, ``"hydra"`` or ``"harp"``."""

    def __init__(self, kind: str = "plain") -> None:
        self.conv, self.linear = {
            "plain": (nn.Conv2d, nn.Linear),
            "hydra": (_ScoredConv, _ScoredLinear),
            "harp": (_RatedConv, _RatedLinear),
        }[kind]

    def conv3(self, inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        return self.conv(inputs, outputs, 3, stride, 1, bias=False)

    def conv1(self, inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        return self.conv(inputs, outputs, 1, stride, bias=False)


class VGG16(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        parts, inputs = [], 3
        for stage, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            parts += [nn.MaxPool2d(2)] if parts else []
            for _ in range(count):
                parts += [layers.conv3(inputs, stage), nn.BatchNorm2d(stage), nn.ReLU()]
                inputs = stage
        self.features = nn.Sequential(*parts)
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            *(layers.linear(2048, 256), nn.ReLU(), layers.linear(256, 256), nn.ReLU()),
            layers.linear(256, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class _WideUnit(nn.Module):
    def __init__(self, layers: Layers, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), layers.conv3(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), layers.conv3(outputs, outputs)
        self.convShortcut = layers.conv1(inputs, outputs, stride) if inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = functional.relu(self.bn1(x))
        y = self.conv2(functional.relu(self.bn2(self.conv1(first))))
        return y + (x if self.convShortcut is None else self.convShortcut(first))


class _WideBlock(nn.Module):
    def __init__(self, layers: Layers, inputs: int, outputs: int, stride: int, count: int) -> None:
        super().__init__()
        units = [_WideUnit(layers, inputs, outputs, stride)]
        units += [_WideUnit(layers, outputs, outputs, 1) for _ in range(count - 1)]
        self.layer = nn.Sequential(*units)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(
        self, layers: Layers, depth: int = 28, width: int = 4, sub_block1: bool = False
    ) -> None:
        super().__init__()
        count, sizes = (depth - 4) // 6, (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = layers.conv3(3, 16)
        self.block1 = _WideBlock(layers, sizes[0], sizes[1], 1, count)
        if sub_block1:  # which forward does not use
            self.sub_block1 = _WideBlock(layers, sizes[0], sizes[1], 1, count)
        self.block2 = _WideBlock(layers, sizes[1], sizes[2], 2, count)
        self.block3 = _WideBlock(layers, sizes[2], sizes[3], 2, count)
        self.bn1, self.fc = nn.BatchNorm2d(sizes[3]), layers.linear(sizes[3], 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        # Published networks average 8x8 pixels, so that images have 29 to 32 on each side.
        return self.fc(functional.avg_pool2d(functional.relu(self.bn1(x)), 8).flatten(1))


class _Unit(nn.Module):
    """A unit of ResNet-18 or, as a bottleneck, of ResNet-50."""

    def __init__(
        self, layers: Layers, inputs: int, width: int, stride: int, bottleneck: bool, shortcut: str
    ) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        if bottleneck:
            convolutions = (
                layers.conv1(inputs, width),
                layers.conv3(width, width, stride),
                layers.conv1(width, outputs),
            )
        else:
            convolutions = (layers.conv3(inputs, width, stride), layers.conv3(width, width))
        self.count = len(convolutions)
        for i, convolution in enumerate(convolutions, start=1):
            setattr(self, f"conv{i}", convolution)
            setattr(self, f"bn{i}", nn.BatchNorm2d(convolution.out_channels))
        self.name = shortcut
        projected = stride > 1 or inputs != outputs
        projection = (layers.conv1(inputs, outputs, stride), nn.BatchNorm2d(outputs))
        setattr(self, shortcut, nn.Sequential(*(projection if projected else ())))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = functional.relu(y) if i < self.count else y
        return functional.relu(y + getattr(self, self.name)(x))


class _ResNet(nn.Module):
    units: tuple[int, ...]
    bottleneck = False
    shortcut = "shortcut"

    def add_stages(self, layers: Layers) -> int:
        inputs = 64
        for stage, count in enumerate(self.units):
            width, units = 64 << stage, []
            for i in range(count):
                stride = 2 if stage and not i else 1
                units.append(_Unit(layers, inputs, width, stride, self.bottleneck, self.shortcut))
                inputs = 4 * width if self.bottleneck else width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*units))
        return inputs

    def stages(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class ResNet18(_ResNet):
    """For small images."""

    units = (2, 2, 2, 2)

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.conv1, self.bn1 = layers.conv3(3, 64), nn.BatchNorm2d(64)
        self.linear = layers.linear(self.add_stages(layers), 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stages(functional.relu(self.bn1(self.conv1(x))))
        # Published networks average 4x4 pixels, so that images have 25 to 32 on each side.
        return self.linear(functional.avg_pool2d(x, 4).flatten(1))


class ResNet50(_ResNet):
    """For photographs, with the names of torchvision."""

    units, bottleneck, shortcut = (3, 4, 6, 3), True, "downsample"

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.conv1, self.bn1 = layers.conv(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.fc = layers.linear(self.add_stages(layers), 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stages(self.maxpool(functional.relu(self.bn1(self.conv1(x)))))
        return self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def small(layers: Layers, channels: int, side: int) -> nn.Module:
    """Return HYDRA's small network, with parameters in 0, 2, 5 and 7."""
    return nn.Sequential(
        *(layers.conv(channels, 16, 4, 2, 1), nn.ReLU(), layers.conv(16, 32, 4, 2, 1), nn.ReLU()),
        *(nn.Flatten(), layers.linear(32 * (side // 4) ** 2, 100), nn.ReLU()),
        layers.linear(100, 10),
    )


def large(layers: Layers, channels: int, side: int) -> nn.Module:
    """Return HYDRA's large network without BatchNorm, with parameters in 0, 2, ..., 13."""
    return nn.Sequential(
        *(layers.conv(channels, 32, 3, 1, 1), nn.ReLU(), layers.conv(32, 32, 4, 2, 1), nn.ReLU()),
        *(layers.conv(32, 64, 3, 1, 1), nn.ReLU(), layers.conv(64, 64, 4, 2, 1), nn.ReLU()),
        *(nn.Flatten(), layers.linear(64 * (side // 4) ** 2, 512), nn.ReLU()),
        *(layers.linear(512, 512), nn.ReLU(), layers.linear(512, 10)),
    )


# Networks by the name in HYDRA's files, and the shape of the images they were made for.
TWINS: dict[str, tuple[Callable[[Layers], nn.Module], tuple[int, int, int]]] = {
    "vgg16_bn": (VGG16, (3, 32, 32)),
    "wrn_28_4": (WideResNet, (3, 32, 32)),
    "resnet18": (ResNet18, (3, 32, 32)),
    "mnist_model": (functools.partial(small, channels=1, side=28), (1, 28, 28)),
    "cifar_model": (functools.partial(small, channels=3, side=32), (3, 32, 32)),
    "mnist_model_large": (functools.partial(large, channels=1, side=28), (1, 28, 28)),
    "cifar_model_large": (functools.partial(large, channels=3, side=32), (3, 32, 32)),
    "resnet50": (ResNet50, (3, 96, 96)),
}


def twin(name: str, kind: str = "plain", k: float = 1.0, seed: int = 0) -> nn.Module:
    """Return a network in inference mode with random weights, statistics and logits of order 1."""
    torch.manual_seed(seed)
    make, shape = TWINS[name]
    return settled(make(Layers(kind)), shape, k)


def settled(network: nn.Module, shape: tuple[int, int, int], k: float = 1.0) -> nn.Module:
    """Draw the parameters of a network, and take its statistics from random images.

    As in trained networks, most values pass ReLU, and the branch of a residual unit changes its
    input a little. Other random networks multiply the rounding errors of PyTorch and of Keras.
    """
    for module in network.modules():
        if isinstance(module, _Scored):
            module.k = k
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.8)
            nn.init.normal_(module.bias, mean=1.0, std=0.2)
            module.momentum = 1.0  # the statistics become those of the next batch
        elif isinstance(module, nn.Conv2d | nn.Linear):
            rate = float(module.rate()) if isinstance(module, _Scored) else 1.0
            fan_in = rate * module.weight[0].numel()
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in))
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.2)
    for module in network.modules():
        if isinstance(module, _Unit):
            nn.init.uniform_(getattr(module, f"bn{module.count}").weight, 0.1, 0.4)
    x = torch.from_numpy(images(shape, count=8, seed=0).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        network.train()(x)
        last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
        spread = network.eval()(x).std()
        last.weight /= spread
        last.bias /= spread
    return network


def scored_layers(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the names of the modules with scores, and the modules."""
    return ((n, module) for n, module in network.named_modules() if isinstance(module, _Scored))


def hydra_file(network: nn.Module, arch: str, parallel: bool = False) -> dict[str, Any]:
    """Return the content of a file of HYDRA."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    state = network.state_dict()
    return {
        "epoch": 20,
        "arch": arch,
        "state_dict": {f"module.{n}": v for n, v in state.items()} if parallel else state,
        "best_prec1": torch.tensor(51.9),
        "optimizer": optimizer.state_dict(),
    }


def images(shape: tuple[int, int, int], count: int = 3, seed: int = 1) -> np.ndarray:
    """Return random images of several colours with channels last."""
    rng = np.random.default_rng(seed)
    colours = rng.random((count, 1, 1, shape[0]), np.float32)
    return (colours + rng.random((count, *shape[1:], shape[0]), np.float32)) / 2


def logits(network: nn.Module, x: np.ndarray) -> np.ndarray:
    """Return the logits of images with channels last."""
    with torch.no_grad():
        return network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
