"""``.keras`` files that someone else may have made: checked, then loaded in Keras's safe mode."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from hydra_tf.core.layer_copies import cause
from hydra_tf.core.lazy import keras

# Errors of reading a zip archive that is cut short or changed.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError),
    *(NotImplementedError, RuntimeError, RecursionError, OSError),
)
# Layers that run code or read files named in their config.
_UNSAFE = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
_FILES = ("vocabulary", "idf_weights")
_PARTS = (
    "layers|models|initializers|regularizers|constraints|activations|quantizers|ops|"
    "dtype_policies|optimizers|losses|metrics|random"
)
_MODULES = re.compile(rf"builtins|keras(\.src)?(\.({_PARTS})(\.\w+)*)?|hydra_tf(\.\w+)*")
_WEIGHTS = ("model.weights.h5", "model.weights.npz")
_MAX_CONFIG = 100_000_000  # bytes
_MAX_EXPANSION = 100  # uncompressed bytes of a weight file per byte in the archive
_SLACK = 1_000_000  # bytes of weights that a file need not contain


def load_keras_file(path: str | os.PathLike[str]) -> Any:
    """Load a network from a ``.keras`` file without trusting the file.

    Only classes of Keras and hydra_tf, and those that the caller registered with Keras, are made.
    The file is refused before any weight is allocated if a layer could run code or read another
    file, and while layers are built if they have more weights than the file contains. Losses and
    optimizers in the file are ignored.

    Args:
        path: the file.

    Returns:
        The network, not compiled.

    Raises:
        FileNotFoundError: when there is no file.
        ValueError: in one sentence that names the file, the layer if it is one layer's fault,
            and the cause.

    Example:
        >>> import tempfile
        >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
        >>> path = os.path.join(tempfile.mkdtemp(), "net.keras")
        >>> net.save(path)
        >>> load_keras_file(path).count_params()
        9
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        with zipfile.ZipFile(path) as archive:
            config = _read_config(archive)
            stored = _check_weights(archive)
    except (PermissionError, IsADirectoryError) as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged, or not a network: {cause(error)}.") from error
    try:
        _check_entry(config)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be loaded: {cause(error)}.") from error
    limit = stored + _SLACK
    try:
        with _limited_weights(limit):
            net = keras.saving.load_model(path, compile=False, safe_mode=True)
    # Keras raises errors of many types, with whole configs as text.
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded: {_culprit(config, limit, error)}.") from error
    if not isinstance(net, keras.Model):
        raise ValueError(
            f"{path} contains a {type(net).__name__}, not a network; write it with model.save."
        )
    return net


def _read_config(archive: zipfile.ZipFile) -> Any:
    """Return the config of the network in an archive."""
    if archive.getinfo("config.json").file_size > _MAX_CONFIG:
        raise ValueError(f"its config.json has more than {_MAX_CONFIG:,} bytes")
    config = json.loads(archive.read("config.json"))
    whole = isinstance(config, dict) and isinstance(config.get("class_name"), str)
    if not (whole and isinstance(config.get("config"), dict)):
        raise ValueError("its config.json does not describe a network")
    return config


def _check_weights(archive: zipfile.ZipFile) -> int:
    """Check the weight file in an archive; return its size in bytes."""
    name = next((name for name in _WEIGHTS if name in archive.namelist()), None)
    if name is None:
        raise ValueError(f"it has no {_WEIGHTS[0]}")
    info = archive.getinfo(name)
    if info.file_size > _SLACK + _MAX_EXPANSION * info.compress_size:
        raise ValueError(f"its {name} expands to more than {_MAX_EXPANSION} times its size")
    content = archive.read(name)
    if name.endswith(".h5"):
        _check_hdf5(content)
    return len(content)


def _check_hdf5(content: bytes) -> None:
    """Check that the arrays of an HDF5 file are in the file, and not larger than it claims."""
    import h5py

    with h5py.File(io.BytesIO(content), "r") as file:
        groups, total, seen = [file], 0, set()
        while groups:
            group = groups.pop()
            address = h5py.h5o.get_info(group.id).addr
            if address in seen:
                raise ValueError("its weights contain a group twice")
            seen.add(address)
            for name in group:
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise ValueError("its weights are links to other places")
                item = group[name]
                if isinstance(item, h5py.Group):
                    groups.append(item)
                elif not isinstance(item, h5py.Dataset) or item.size is None:
                    raise ValueError("its weights contain something that is not an array")
                elif item.external or item.is_virtual:
                    raise ValueError("its weights are in other files")
                else:
                    total += item.size * item.dtype.itemsize
                if total > _SLACK + _MAX_EXPANSION * len(content) or len(groups) > len(content):
                    raise ValueError("its weights are larger than the file")


def _check_entry(entry: Any, layer: str = "") -> None:
    """Check that a part of a config makes nothing that could run code or read another file."""
    if isinstance(entry, list):
        for item in entry:
            _check_entry(item, layer)
    if not isinstance(entry, dict):
        return
    name, module = entry.get("class_name"), entry.get("module")
    if isinstance(name, str):
        own = entry.get("config")
        layer = _quoted(own["name"]) if isinstance(own, dict) and "name" in own else layer
        where = f"the layer {layer} ({_quoted(name)[1:-1]})" if layer else f"{_quoted(name)} in it"
        if name in _UNSAFE:
            raise ValueError(
                f"{where} could run any code, so it is never loaded; write it with keras.ops, or "
                "as a registered custom layer"
            )
        trusted = module is None or (isinstance(module, str) and _MODULES.fullmatch(module))
        if not (trusted or _is_registered(entry)):
            raise ValueError(
                f"{where} is a class of {_quoted(module)} that is not registered; if you trust it, "
                "import that module and decorate the class with "
                "keras.saving.register_keras_serializable"
            )
    for key, value in entry.items():
        if key in _FILES and isinstance(value, str):
            raise ValueError(f"the layer {layer} reads {_quoted(value)}, which is not allowed")
        if key != "compile_config":
            _check_entry(value, layer)


def _quoted(name: object) -> str:
    """Return a name from a file in quotes, on one line and not too long."""
    return json.dumps(str(name)[:80])


def _is_registered(entry: dict[str, Any]) -> bool:
    """Return whether the class of an entry is registered with Keras."""
    name = entry.get("registered_name")
    return isinstance(name, str) and keras.saving.get_registered_object(name) is not None


@contextlib.contextmanager
def _limited_weights(limit: int) -> Iterator[None]:
    """Raise an error when the layers made in this context have more weights than `limit` bytes.

    Keras allocates the weights of a layer before it looks whether the file contains them.
    """
    add_weight, total = keras.layers.Layer.add_weight, 0

    def counted(self: Any, shape: Any = None, *args: Any, **kwargs: Any) -> Any:
        nonlocal total
        total += math.prod(shape) if isinstance(shape, list | tuple) else 1
        if total > limit:
            raise ValueError(f'the layer "{self.name}" has more weights than the file contains')
        return add_weight(self, shape, *args, **kwargs)

    keras.layers.Layer.add_weight = counted
    try:
        yield
    finally:
        keras.layers.Layer.add_weight = add_weight


def _layers(entry: Any) -> Iterator[dict[str, Any]]:
    """Yield the configs of layers in a config, the inner ones first."""
    if isinstance(entry, list):
        for item in entry:
            yield from _layers(item)
    elif isinstance(entry, dict):
        for value in entry.values():
            yield from _layers(value)
        own = entry.get("config")
        if isinstance(entry.get("class_name"), str) and isinstance(own, dict) and "name" in own:
            yield entry


def _culprit(config: dict[str, Any], limit: int, error: Exception) -> str:
    """Return the layer that cannot be loaded, if it can be found, and the cause."""
    for entry in _layers(config["config"]):
        try:
            with _limited_weights(limit):
                keras.saving.deserialize_keras_object(entry, safe_mode=True)
        except Exception as reason:
            name, kind = _quoted(entry["config"]["name"]), _quoted(entry["class_name"])[1:-1]
            return f"the layer {name} ({kind}): {cause(reason)}"
    # Weights that do not fit: Keras names one object after a long introduction.
    found = re.search(r"for object <(\w+) name=([\w/.-]+)[^>]*>:?\s*(.*)", str(error), re.DOTALL)
    if found:
        misfit = ValueError(found[3].strip("'"))
        return f'the layer "{found[2]}" ({found[1]}): {cause(misfit)}'
    return cause(error)
