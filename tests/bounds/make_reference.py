"""Write reference.npz: the bounds of auto_LiRPA on three small networks of random weights.

auto_LiRPA is an independent PyTorch implementation by the authors of CROWN-IBP. It is needed
only to write the file again, not to run the tests:

    pip install --no-deps auto_lirpa==0.3 torch numpy==1.26.4 tqdm appdirs pyyaml packaging
    python tests/bounds/make_reference.py

The stored numbers were computed by auto_LiRPA 0.3 on PyTorch 2.13.0 (CPU), for which
``restore_old_names`` provides the former names of functions. Weights are stored in the layout
of Keras, channels last.
"""

import importlib
import pathlib
import sys
import types

import numpy as np
import torch
import torch.onnx
from torch import nn
from torch.onnx._internal.torchscript_exporter import _globals
from torch.onnx._internal.torchscript_exporter import utils as exporter


def restore_old_names() -> None:
    """Provide the names of PyTorch 1.12 that auto_LiRPA 0.3 imports."""
    settings = _globals.GLOBALS
    helper = importlib.import_module("torch.onnx.symbolic_helper")
    helper._set_opset_version = lambda v: setattr(settings, "export_onnx_opset_version", v)
    importlib.import_module("torch.onnx.utils")._optimize_graph = exporter._optimize_graph
    torch.onnx.OperatorExportTypes = torch._C._onnx.OperatorExportTypes
    torch._C.Node.__getitem__ = lambda self, key: getattr(self, self.kindOf(key))(key)
    sys.modules.setdefault("torchvision", types.ModuleType("torchvision"))


class Residual(nn.Module):
    """Two convolutions with BatchNorm around a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.outer = nn.Conv2d(4, 4, 3, padding=1)
        self.logits = nn.Linear(4 * 36, 5)

    def forward(self, x):
        """Return the logits."""
        x = torch.relu(self.first(x))
        y = self.outer(torch.relu(self.norm(self.inner(x))))
        return self.logits(torch.flatten(torch.relu(x + y), 1))


def networks():
    """Return the networks and the shape of the features that each of them flattens."""
    conv = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 9, 12), nn.ReLU(), nn.Linear(12, 5),
    )  # fmt: skip
    norm = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 9, 5),
    )  # fmt: skip
    return {
        "conv": (conv, (6, 3, 3)),
        "norm": (norm, (6, 3, 3)),
        "residual": (Residual(), (4, 6, 6)),
    }


def keras_weights(net, features):
    """Return the weights of every layer, in the order and layout of Keras."""
    weights, flattened = [], True
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            weights.append(layer.weight.permute(2, 3, 1, 0))
        elif isinstance(layer, nn.Linear):
            kernel = layer.weight
            if flattened:  # PyTorch flattens channels first
                kernel = kernel.reshape(-1, *features).permute(0, 2, 3, 1).flatten(1)
                flattened = False
            weights.append(kernel.T)
        elif isinstance(layer, nn.BatchNorm2d):
            weights += [layer.weight, layer.bias, layer.running_mean, layer.running_var]
            continue
        else:
            continue
        if layer.bias is not None:
            weights.append(layer.bias)
    return [weight.detach().numpy().copy() for weight in weights]


def main() -> None:
    """Compute and store the bounds on logits and margins for every method."""
    restore_old_names()
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    members = BoundedModule._named_members
    BoundedModule._named_members = lambda *args, remove_duplicate=True, **kw: members(*args, **kw)
    torch.manual_seed(0)
    x, epsilon = torch.rand(3, 2, 6, 6), 0.05
    y = torch.tensor([0, 2, 4])
    stored = {"x": x.permute(0, 2, 3, 1).numpy(), "y": y.numpy(), "epsilon": epsilon}
    specs = torch.eye(5)[y][:, None] - torch.eye(5)[None]
    for name, (net, features) in networks().items():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for values, low in ((layer.weight, 0.5), (layer.running_var, 0.1)):
                    nn.init.uniform_(values, low, 1.5)
                for values in (layer.bias, layer.running_mean):
                    nn.init.normal_(values, 0, 0.3)
        net.eval()
        for i, weight in enumerate(keras_weights(net, features)):
            stored[f"{name}_weight_{i:02d}"] = weight
        stored[f"{name}_logits"] = net(x).detach().numpy()
        ball = PerturbationLpNorm(
            norm=float("inf"), x_L=(x - epsilon).clamp(0, 1), x_U=(x + epsilon).clamp(0, 1)
        )
        # By default auto_LiRPA intersects hidden bounds with those of IBP, which is not CROWN.
        plain = {"sparse_intermediate_bounds": False, "sparse_conv_intermediate_bounds": False}
        bounded = BoundedModule(net, x, device="cpu", bound_opts=plain)
        for method in ("IBP", "CROWN-IBP", "CROWN"):
            key = f"{name}_{method.lower().replace('-', '_')}"
            image = BoundedTensor(x, ball)
            lower, upper = bounded.compute_bounds(x=(image,), method=method)
            margins, _ = bounded.compute_bounds(x=(image,), C=specs, method=method)
            for side, values in (("lower", lower), ("upper", upper), ("margins", margins)):
                stored[f"{key}_{side}"] = values.detach().numpy()
    np.savez_compressed(pathlib.Path(__file__).with_name("reference.npz"), **stored)


if __name__ == "__main__":
    main()
