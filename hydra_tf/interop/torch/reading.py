"""PyTorch files that someone else made: only tensors are read from them."""

from __future__ import annotations

import os
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydra_tf.interop.torch.requirement import require_torch

Tensors = dict[str, np.ndarray[Any, Any]]
Shapes = Mapping[str, tuple[int, ...]]

_STATE_KEYS = ("state_dict", "net")  # of HYDRA and HARP; of other entries of the Benchmark
_LONGEST = 200  # characters of a reason, which may repeat bytes of the file
_HARMLESS = ("torch", "collections")  # modules of which PyTorch's own files name classes


@dataclass(frozen=True)
class TorchFile:
    """The content of a PyTorch file.

    Args:
        path: the file.
        arch: the name that the file has for its architecture, None if it has none.
        tensors: names of tensors to arrays, float32, without the prefix ``module.``.
    """

    path: str
    arch: str | None
    tensors: Tensors

    @property
    def shapes(self) -> Shapes:
        """Names of tensors to shapes."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}


def read_torch_file(path: str | os.PathLike[str]) -> TorchFile:
    """Return the tensors of a file of ``torch.save``.

    Nothing in the file is executed (``weights_only=True``). The file contains the tensors
    themselves, or a mapping with them as ``state_dict`` or ``net``.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: when there is no file.
        ImportError: without PyTorch.
        ValueError: for a file that is damaged, has no tensors, or needs more than tensors and
            plain values; in one sentence that names the file and the cause.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist.")
    torch = require_torch()
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the internals of old files
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, IsADirectoryError) as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    # PyTorch raises errors of many types for damaged files.
    except Exception as error:
        if name := _refused_global(path, error):
            raise ValueError(
                f"{path} is not loaded: it contains {name}, which could execute code; if you "
                "trust its author, load it with PyTorch yourself and save its state_dict alone."
            ) from error
        raise ValueError(f"{path} is damaged, or not a PyTorch file: {_reason(error)}.") from error
    return _checked(path, content, torch)


def _check_archive(path: str) -> None:
    """Check what PyTorch does not: compression and checksums; older files are no archives."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # A small compressed file could fill the memory.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError(
                    "it is compressed, as TorchScript is and files of torch.save are not"
                )
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of its {damaged} is wrong")


def _refused_global(path: str, error: Exception) -> str | None:
    """Return the name of the class or function for which PyTorch refused a file."""
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return found[1]
    if "Unsupported operand" not in str(error):  # an opcode of a newer pickle protocol
        return None
    try:
        names = list(_globals(_pickle_of(path)))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return next((name for name in names if name.split(".")[0] not in _HARMLESS), None)


def _pickle_of(path: str) -> bytes:
    """Return the pickle of a file."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            return archive.read(name)
    with open(path, "rb") as file:
        return file.read()


def _globals(content: bytes) -> Iterator[str]:
    """Yield the classes and functions that a pickle names, without unpickling it.

    Example:
        >>> import pickle
        >>> list(_globals(pickle.dumps(slice, protocol=4)))
        ['builtins.slice']
    """
    texts = ["", ""]
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":  # of the last two texts
            yield ".".join(texts[-2:])
        elif isinstance(argument, str):
            texts.append(argument)


def _reason(error: Exception) -> str:
    """Return the first sentence of an error, without a full stop."""
    text = str(error).strip() or "it is cut short"
    return re.split(r"\. |\n", text)[0][:_LONGEST].rstrip(". ")


def _checked(path: str, content: Any, torch: Any) -> TorchFile:
    """Return the tensors of what a file contains."""
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} contains a {type(content).__name__}, not a mapping of names to tensors; save "
            "model.state_dict()."
        )
    state = next((content[key] for key in _STATE_KEYS if key in content), content)
    named = isinstance(state, Mapping) and all(isinstance(name, str) for name in state)
    if not named or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(
            f"{path} has no state_dict, which maps names to tensors; its entries are "
            f"{', '.join(str(key)[:40] for key in list(content)[:8]) or 'none'}."
        )
    # PyTorch can repeat a value without storing it again, which no network needs.
    if sum(tensor.numel() for tensor in state.values()) > os.path.getsize(path):
        raise ValueError(f"{path} claims to have more values than its size allows.")
    # Of networks that PyTorch trains on several devices.
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    try:
        tensors = {
            name.removeprefix(prefix): _array(name, tensor, torch)
            for name, tensor in state.items()
            if not name.endswith(".num_batches_tracked")  # which no network computes with
        }
    except (RuntimeError, TypeError) as error:  # of sparse tensors, and without values
        raise ValueError(f"{path} has tensors that are not arrays: {_reason(error)}.") from error
    except ValueError as error:
        raise ValueError(f"{path} does not contain a network: {error}.") from error
    arch = content.get("arch")
    return TorchFile(path, arch if isinstance(arch, str) else None, tensors)


def _array(name: str, tensor: Any, torch: Any) -> np.ndarray[Any, Any]:
    """Return a tensor as an array of finite float32."""
    shown = f"its {name[:_LONGEST]!r}"
    if tensor.numel() == 0:  # whose shape could claim any size
        raise ValueError(f"{shown} has no elements")
    if tensor.is_complex():
        raise ValueError(f"{shown} has complex values")
    array: np.ndarray[Any, Any] = tensor.detach().to(torch.float32).numpy()
    if not np.isfinite(array).all():
        raise ValueError(f"{shown} has values that are NaN or infinite in float32")
    return array
