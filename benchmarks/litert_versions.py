"""Which versions of LiteRT load the files that this library writes, and with the same outputs.

    python -m benchmarks.litert_versions [--versions=1.0.1,1.4.0,2.3.0] [--folder=build/litert]

Each version is installed with pip into a virtual environment of its own in the folder, which a
second start uses again. "tflite-runtime" is the last version of LiteRT's predecessor. The files are
those of a mnist_cnn with random kernels at 5%. Each is loaded with XNNPACK and without, and run on
16 images, one by one; "ok" means that the outputs differ by at most 1e-4 of their largest
value from those of the same file in the LiteRT of this environment.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess

import numpy as np

from hydra_tf.core.isolated import isolated_command

VERSIONS = "tflite-runtime,1.0.1,1.1.2,1.2.0,1.3.0,1.4.0,2.0.3,2.1.6,2.2.0,2.3.0"
# Runs in an environment that has the runtime and NumPy alone.
SCRIPT = """
import json, sys
import numpy as np
try:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
except ImportError:
    from tflite_runtime.interpreter import Interpreter, OpResolverType
path, images, plain = sys.argv[1], np.load(sys.argv[2]), sys.argv[3] == "plain"
kind = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if plain else OpResolverType.AUTO
runner = Interpreter(path, experimental_op_resolver_type=kind, num_threads=1)
runner.allocate_tensors()
given, made = runner.get_input_details()[0]["index"], runner.get_output_details()[0]["index"]
outputs = []
for image in images:
    runner.set_tensor(given, image[None])
    runner.invoke()
    outputs.append(runner.get_tensor(made)[0].tolist())
print(json.dumps(outputs))
"""


def main() -> None:
    """Print a table: a row for each file, a column for each version."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--versions", default=VERSIONS)
    parser.add_argument("--folder", default="build/litert", type=pathlib.Path)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).random((16, 28, 28, 1), dtype="float32")
    np.save(folder / "images.npy", images)
    files = write_files(folder, images)
    versions = arguments.versions.split(",")
    pythons = {version: environment(folder, version) for version in versions}
    print("| file | XNNPACK |", " | ".join(versions), "|")
    print("|---" * (2 + len(versions)) + "|")
    here = pathlib.Path(isolated_command("venv")[0])  # this interpreter
    for path in files:
        for mode in ("auto", "plain"):
            expected = run(here, path, folder, mode)
            cells = [
                "not installed"
                if python is None
                else verdict(run(python, path, folder, mode), expected)
                for python in pythons.values()
            ]
            print(f"| {path.stem} | {'yes' if mode == 'auto' else 'no'} |", " | ".join(cells), "|")


def write_files(folder: pathlib.Path, images: np.ndarray) -> list[pathlib.Path]:
    """Write a file of each number format and form; return their paths."""
    from hydra_tf import export

    from .export_size import pruned_network

    net = pruned_network("mnist_cnn", 0.05)
    paths = []
    forms = [(None, "size"), (None, "latency"), ("float16", "size"), ("int8", "size")]
    for quantization, prefer in forms:
        path = folder / f"{quantization or 'float32'}-{prefer}.tflite"
        export.to_tflite(net, path, quantization, representative=images, prefer=prefer)
        paths.append(path)
    path = folder / "float32-dense.tflite"
    export.to_tflite(net, path, sparse=False)
    return [*paths, path]


def environment(folder: pathlib.Path, version: str) -> pathlib.Path | None:
    """Return the Python of an environment with a version; None if pip does not find it."""
    home = folder / f"venv-{version}"
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run(isolated_command("venv", home), check=True)
    old = version == "tflite-runtime"
    wanted = ["tflite-runtime"] if old else [f"ai-edge-litert=={version}"]
    numpy = "numpy<2" if old or version.startswith("1.0") else "numpy"
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--only-binary=:all:",
        *wanted,
        numpy,
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        print(f"{version} was not installed: {result.stderr.strip().splitlines()[-1]}")
        return None
    return python


def run(
    python: pathlib.Path, path: pathlib.Path, folder: pathlib.Path, mode: str
) -> np.ndarray | str:
    """Return the outputs of a file on the images, or the last line of the error."""
    command = [str(python), "-I", "-c", SCRIPT, str(path), str(folder / "images.npy"), mode]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)
    if result.returncode:
        lines = result.stderr.strip().splitlines()
        return lines[-1] if lines else f"killed by signal {-result.returncode}"
    return np.array(json.loads(result.stdout.strip().splitlines()[-1]))


def verdict(outputs: np.ndarray | str, expected: np.ndarray | str) -> str:
    """Return what a cell of the table says."""
    if isinstance(outputs, str):
        return f"error: {outputs[:60]}"
    if isinstance(expected, str):
        return "runs"
    difference = float(np.max(np.abs(outputs - expected)) / np.max(np.abs(expected)))
    return "ok" if difference <= 1e-4 else f"differs by {difference:.1g}"


if __name__ == "__main__":
    main()
