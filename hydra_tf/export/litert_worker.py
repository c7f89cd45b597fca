"""Run a TFLite file on images, in a separate process (see litert.py).

Arguments: the TFLite file, an .npy file of images, the .npz file to write, and the module of the
interpreter. It writes the outputs with XNNPACK and without it, and the number of tensors that the
file stores sparsely.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np


def main(path: str, images: str, results: str, module: str) -> None:
    """Run the file on every image, one at a time, and write its outputs."""
    runtime = importlib.import_module(module)
    inputs = np.load(images)
    resolvers = runtime.OpResolverType
    with_xnnpack, sparse = _run(runtime, path, inputs, resolvers.AUTO)
    without, _ = _run(runtime, path, inputs, resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    np.savez(results, outputs=with_xnnpack, without_xnnpack=without, sparse=sparse)


def _run(
    runtime: Any, path: str, images: np.ndarray[Any, Any], resolver: Any
) -> tuple[np.ndarray[Any, Any], int]:
    """Return the outputs for the images, and the number of sparse tensors."""
    interpreter = runtime.Interpreter(model_path=path, experimental_op_resolver_type=resolver)
    tensors = interpreter.get_tensor_details()
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    (target,) = interpreter.get_output_details()
    outputs = []
    for image in images:
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target["index"])[0])
    return np.stack(outputs), sum(bool(tensor["sparsity_parameters"]) for tensor in tensors)


if __name__ == "__main__":
    main(*sys.argv[1:])
