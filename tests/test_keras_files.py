"""Files of networks that someone else may have made, and layers that cannot be copied."""

import io
import json
import re
import zipfile

import h5py
import keras
import numpy as np
import pytest

import hydra_tf
from flags.shared.launcher import UsageError
from flags.shared.networks import load_network
from hydra_tf.core.keras_files import load_keras_file

layers = keras.layers


def small_net(*middle):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input([4]), *middle, layers.Dense(3, name="logits")])


def rewritten(source, target, **members):
    """Copy an archive; ``config`` and ``weights`` map the old content of a member to the new."""
    names = {"config": "config.json", "weights": "model.weights.h5"}
    changes = {names[key]: change for key, change in members.items()}
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = changes.get(name, lambda content: content)(old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


def config_with(change):
    """Return a function that applies `change` to the config of the first dense layer."""

    def apply(content):
        config = json.loads(content)
        entry = next(e for e in config["config"]["layers"] if e["config"]["name"] == "hidden")
        change(entry)
        return json.dumps(config).encode()

    return apply


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "whole.keras"
    small_net(layers.Dense(5, activation="relu", name="hidden")).save(path)
    return path


def check_refused(path, message):
    with pytest.raises(ValueError, match="^" + re.escape(str(path)) + message) as caught:
        load_keras_file(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    with pytest.raises(UsageError, match=re.escape(str(caught.value))):
        load_network(str(path))


@pytest.mark.parametrize("masked", [False, True])
def test_a_network_is_loaded_with_its_weights(masked, tmp_path):
    net = small_net(layers.Dense(5), layers.BatchNormalization())
    if masked:
        net = hydra_tf.mask_model(net)
        hydra_tf.set_density(net, 0.3)
    net.compile("adam", "mse")
    net.fit(np.zeros([4, 4]), np.zeros([4, 3]), verbose=0)
    net.save(tmp_path / "net.keras")
    loaded = load_keras_file(tmp_path / "net.keras")
    assert not loaded.compiled
    for one, other in zip(net.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_optimizer_is_not_a_network(file, tmp_path):
    optimizer = json.dumps(keras.saving.serialize_keras_object(keras.optimizers.SGD()))
    path = rewritten(file, tmp_path / "net.keras", config=lambda _: optimizer)
    check_refused(path, r" contains a SGD, not a network; write it with model\.save\.$")


def test_an_unregistered_activation_is_named(tmp_path):
    def my_activation(x):
        return keras.ops.tanh(x)

    path = tmp_path / "net.keras"
    small_net(layers.Dense(5, activation=my_activation, name="hidden")).save(path)
    check_refused(path, r' .*layer "hidden" \(Dense\): it uses the function "my_activation", which')


def test_an_unregistered_layer_is_named(tmp_path):
    class MyLayer(layers.Layer):
        def call(self, inputs):
            return inputs

    small_net(MyLayer(name="mine")).save(tmp_path / "net.keras")
    message = r' cannot be loaded: the layer "mine" \(MyLayer\) is a class of "\S+" that is not reg'
    check_refused(tmp_path / "net.keras", message)


@pytest.mark.parametrize("module", ["my_module", "os.path", "keras.utils", "keras.\n"])
def test_a_module_is_not_imported(module, file, tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    change = config_with(lambda entry: entry.update(module=module, class_name="Odd"))
    path = rewritten(file, tmp_path / "net.keras", config=change)
    check_refused(path, r' .* the layer "hidden" \(Odd\) is a class of ".*" that is not registered')


@pytest.mark.parametrize("name", ["Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer"])
def test_layers_that_could_run_code_are_named(name, file, tmp_path):
    change = config_with(lambda entry: entry.update(class_name=name))
    path = rewritten(file, tmp_path / "net.keras", config=change)
    check_refused(path, rf' cannot be loaded: the layer "hidden" \({name}\) could run any code')


def test_a_layer_does_not_read_a_file(file, tmp_path):
    change = config_with(lambda entry: entry["config"].update(vocabulary="/etc/hostname"))
    path = rewritten(file, tmp_path / "net.keras", config=change)
    check_refused(path, r' .*layer "hidden" reads "/etc/hostname", which is not allowed')


def test_more_weights_than_the_file_contains_are_not_allocated(file, tmp_path):
    change = config_with(lambda entry: entry["config"].update(units=10**12))
    path = rewritten(file, tmp_path / "net.keras", config=change)
    check_refused(path, r' .*layer "hidden" .* has more weights than the file contains\.$')
    assert keras.layers.Dense(2).units == 2  # Keras itself is as before
    assert small_net(layers.Dense(2_000)).count_params() == 2_000 * 8 + 3


def test_weights_of_another_network(file, tmp_path):
    other = tmp_path / "other.keras"
    small_net(layers.Dense(6, activation="relu", name="hidden")).save(other)
    with zipfile.ZipFile(other) as archive:
        weights = archive.read("model.weights.h5")
    path = rewritten(file, tmp_path / "net.keras", weights=lambda _: weights)
    check_refused(path, r' cannot be loaded: the layer "hidden" \(Dense\): .*\(4, 5\).*\(4, 6\)')


def hdf5(write):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        write(file)
    return content.getvalue()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda file: file.update(x=h5py.ExternalLink("/etc/other.h5", "x")),
            r"its weights are links to other places\.$",
        ),
        (
            lambda file: file.create_dataset(
                "x", [8], "u1", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
            ),
            r"its weights are in other files\.$",
        ),
        (
            lambda file: file.create_dataset("x", [10**13], "f4", chunks=(1024,)),
            r"its weights are larger than the file\.$",
        ),
        (
            lambda file: file.__setitem__("a/b", file),
            r"its weights contain a group twice\.$",
        ),
        (
            lambda file: file.__setitem__("x", np.dtype("f4")),
            r"its weights contain something that is not an array\.$",
        ),
        (
            lambda file: file.create_dataset("x", data=h5py.Empty("f4")),
            r"its weights contain something that is not an array\.$",
        ),
    ],
)
def test_weights_are_in_the_file(write, message, file, tmp_path):
    path = rewritten(file, tmp_path / "net.keras", weights=lambda _: hdf5(write))
    check_refused(path, " is damaged, or not a network: " + message)


def test_a_bomb_is_not_unpacked(file, tmp_path):
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("config.json", old.read("config.json"))
        new.writestr("model.weights.h5", bytes(20_000_000))
    check_refused(path, r" .*its model\.weights\.h5 expands to more than 100 times its size\.$")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value"),
        ("[" * 100_000, "its config is nested too deeply"),
        ("[1]", "its config.json does not describe a network"),
        ('{"class_name": "Sequential"}', "its config.json does not describe a network"),
        ('{"a": ' * 300 + "1" + "}" * 300, "its config.json does not describe a network"),
        (None, r"There is no item named 'config\.json'"),
    ],
)
def test_damaged_configs(content, message, file, tmp_path):
    path = rewritten(file, tmp_path / "net.keras", config=lambda _: content)
    check_refused(path, f" is damaged, or not a network: .*{message}")


def test_files_that_are_not_archives(tmp_path):
    path = tmp_path / "net.keras"
    with pytest.raises(FileNotFoundError, match=r"net\.keras does not exist\.$"):
        load_keras_file(path)
    path.write_bytes(b"no archive")
    with pytest.raises(
        ValueError, match=r"is damaged, or not a network: File is not a zip file\.$"
    ):
        load_keras_file(path)


def test_a_file_without_permission_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "net.keras"
    small_net().save(path)

    def refuse(*_):  # permissions do not stop every user
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    with pytest.raises(ValueError, match=r"net\.keras cannot be read: Permission denied\.$"):
        load_keras_file(path)


def test_copies_name_the_layer_that_cannot_be_copied():
    class WithoutConfig(layers.Layer):
        def __init__(self, value):
            super().__init__(name="odd")
            self.value = value

        def call(self, inputs):
            return inputs

    with pytest.raises(
        ValueError, match=r'^The layer "odd" \(WithoutConfig\) cannot be copied: its'
    ):
        hydra_tf.mask_model(small_net(WithoutConfig(object())))
