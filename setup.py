"""Packaging of hydra_tf: the library, and the folder flags/ as ``hydra_tf.flags``."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).resolve().parent
BINARIES = ("train", "evaluate", "certify", "export", "study", "submission")


def version() -> str:
    """Read the version from the package without importing it."""
    text = (ROOT / "hydra_tf" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError('hydra_tf/__init__.py must hold a line like __version__ = "0.1.0".')
    return found.group(1)


def readme() -> str:
    """Return the README, which is the description that a package index shows."""
    path = ROOT / "README.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


ONNX = ["onnx>=1.17", "onnxruntime>=1.20", "tf2onnx>=1.17"]

setup(
    name="hydra_tf",
    version=version(),
    description="Prune adversarially robust Keras networks and ship them to the edge.",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    packages=[
        *find_packages(include=["hydra_tf", "hydra_tf.*"]),
        "hydra_tf.flags",
        *(f"hydra_tf.flags.{name}" for name in find_packages("flags")),
    ],
    package_dir={"hydra_tf.flags": "flags"},
    package_data={"hydra_tf": ["py.typed"], "hydra_tf.flags": ["recipes/*.flags"]},
    include_package_data=False,
    zip_safe=False,
    entry_points={
        "console_scripts": [f"hydra-{name}=hydra_tf.flags.{name}:main" for name in BINARIES],
    },
    install_requires=[
        "absl-py>=1.4",
        "ai-edge-litert>=2.1",
        "cleverhans==4.0.0",
        "deflate>=0.8",
        "flatbuffers>=25.12.19",
        "keras>=3.11",
        "matplotlib>=3.10.7",
        "mlxtend>=0.23",
        "numpy>=1.26",
        "plotly>=6.0",
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "tensorboard>=2.20",
        "tensorflow>=2.20",
        "tensorflow-datasets>=4.9.10",
        "tensorflow-model-optimization>=0.8",
        "tf-keras>=2.20",
        "wrapt>=1.15",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.20; sys_platform == 'linux'"],
        "onnx": ONNX,
        "test": [
            *ONNX,
            "adversarial-robustness-toolbox>=1.20",
            "foolbox>=3.3.4",
            "hypothesis>=6.100",
            "import-linter>=2.1",
            "importlib_resources>=6.0",
            "mypy>=1.14",
            "pillow>=10.0",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "ruff>=0.9",
            "setuptools>=64",
        ],
        # Before 2.10, files of others can corrupt memory (CVE-2026-24747).
        "torch": ["torch>=2.10"],
        # For tutorials/make_notebooks.py; not locked.
        "notebooks": ["ipykernel>=6.29", "jupytext>=1.16", "nbclient>=0.10", "nbformat>=5.10"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
