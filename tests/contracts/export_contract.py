"""What holds for every quantization of the TFLite export."""

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from hydra_tf.export.size import ExportReport


def network():
    """Return a small network whose kernels have nine zeros in ten."""
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(64, activation="relu"), keras.layers.Dense(64, activation="relu")]
    net = keras.Sequential([keras.Input([16]), *hidden, keras.layers.Dense(4)])
    rng = np.random.default_rng(0)
    for layer in net.layers:
        layer.kernel.assign(layer.kernel * (rng.random(layer.kernel.shape) < 0.1))
        layer.bias.assign(rng.normal(size=layer.bias.shape) / 10)
    return net


def outputs_of(path, images):
    """Return the outputs of a TFLite file, one image at a time."""
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for image in images:
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(target["index"])[0])
    return np.stack(rows)


def check_export(export, quantization, relative_error, folder):
    """Check outputs, report and bytes of an export.

    Args:
        export: ``(model, path, quantization, representative=) -> ExportReport``.
        quantization: name of the quantization, or None.
        relative_error: largest error allowed, as a share of the largest output.
        folder: directory for the files.
    """
    net = network()
    images = np.random.default_rng(1).random((40, 16), dtype=np.float32)
    paths = [folder / "first.tflite", folder / "second.tflite"]
    report, _ = (export(net, path, quantization, representative=images) for path in paths)
    assert isinstance(report, ExportReport)
    expected = net(images).numpy()
    error = np.abs(outputs_of(paths[0], images) - expected).max() / np.abs(expected).max()
    assert error <= relative_error, f"{quantization}: outputs differ by {error:.3g}"
    reported = report.relative_error
    assert abs(reported - error) <= 0.1 * error + 1e-6, f"{quantization}: reports {reported:.3g}"
    assert report.quantization == quantization
    assert report.bytes == paths[0].stat().st_size, f"{quantization}: reports another size"
    kernels = [layer.kernel.numpy() for layer in net.layers]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    assert report.sparsity == zeros / sum(kernel.size for kernel in kernels)
    assert paths[0].read_bytes() == paths[1].read_bytes(), f"{quantization}: bytes differ"
