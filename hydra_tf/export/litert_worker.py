"""Run a TFLite file on images, in a separate process (see litert.py).

Arguments: the TFLite file, an .npy file of images, and the .npz file to write, with the
outputs and the number of tensors that the file stores sparsely.
"""

from __future__ import annotations

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main(path: str, images: str, results: str) -> None:
    """Run the file on every image, one at a time, and write its outputs."""
    interpreter = Interpreter(model_path=path)
    tensors = interpreter.get_tensor_details()
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    (target,) = interpreter.get_output_details()
    outputs = []
    for image in np.load(images):
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target["index"])[0])
    sparse = sum(bool(tensor["sparsity_parameters"]) for tensor in tensors)
    np.savez(results, outputs=np.stack(outputs), sparse=sparse)


if __name__ == "__main__":
    main(*sys.argv[1:])
