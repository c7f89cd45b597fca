"""The wheel contains the library and its binaries only; the lock files match setup.py."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGED = ("hydra_tf", "flags", "setup.py", "pyproject.toml", "LICENSE", "README.md")


def python(*arguments, cwd):
    """Run Python in a folder, without the PYTHONPATH of the checkout."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # Built from a copy: setuptools writes its build folder next to setup.py.
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for path in filter(Path.exists, (ROOT / name for name in PACKAGED)):
        if path.is_dir():
            shutil.copytree(path, source / path.name, ignore=ignore)
        else:
            shutil.copy(path, source)
    for folder in ("tests", "tutorials", "benchmarks", "docs"):
        (source / folder).mkdir()
        (source / folder / "__init__.py").touch()
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", "dist", "."]
    result = python("-m", "pip", *build, cwd=source)
    assert result.returncode == 0, result.stderr
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def members(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_has_one_top_level_package(members):
    tops = {name.partition("/")[0] for name in members}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"hydra_tf"}


def test_wheel_has_every_module_under_its_installed_name(members):
    library = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hydra_tf").rglob("*.py")}
    binaries = {
        f"hydra_tf/flags/{path.relative_to(ROOT / 'flags').as_posix()}"
        for path in (ROOT / "flags").rglob("*.py")
    }
    modules = {name for name in members if name.endswith(".py")}
    assert modules == library | binaries
    assert "hydra_tf/flags/train.py" in modules
    recipes = {f"hydra_tf/flags/recipes/{path.name}" for path in ROOT.glob("flags/recipes/*.flags")}
    assert {"hydra_tf/py.typed", *recipes} <= members


def test_wheel_has_the_licence_and_the_commands(wheel, members):
    (licence,) = [name for name in members if name.endswith("/LICENSE")]
    (commands,) = [name for name in members if name.endswith("/entry_points.txt")]
    with zipfile.ZipFile(wheel) as archive:
        assert "Apache License" in archive.read(licence).decode()
        lines = archive.read(commands).decode().split()
    assert sorted(line for line in lines if line.startswith("hydra-")) == [
        "hydra-certify",
        "hydra-evaluate",
        "hydra-export",
        "hydra-study",
        "hydra-submission",
        "hydra-train",
    ]


def test_installed_binaries_run_under_the_package_name(wheel, tmp_path):
    # A wheel of pure Python is installed by unpacking it.
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    for binary in ("train", "evaluate", "certify", "export", "study", "submission"):
        assert (ROOT / "flags" / f"{binary}.py").exists()
        code = (
            f"import hydra_tf.flags.{binary} as binary; import hydra_tf, sys;"
            "assert callable(binary.main) and 'flags' not in sys.modules;"
            "print(binary.__file__)"
        )
        result = python("-c", code, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert Path(result.stdout.strip()) == tmp_path / "hydra_tf" / "flags" / f"{binary}.py"


def test_importing_the_package_loads_no_framework():
    code = (
        "import sys, hydra_tf;"
        "print(sorted({'tensorflow', 'keras', 'numpy', 'tf_keras', 'torch'} & set(sys.modules)))"
    )
    result = python("-c", code, cwd=ROOT)
    assert result.stdout == "[]\n", result.stderr


def pins(lock):
    """Return the pinned versions of each requirement: several if they depend on Python."""
    lines = [line for line in (ROOT / lock).read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[^ ]+( ; .+)?", line) for line in lines), lines
    versions = {}
    for line in lines:
        name, _, version = line.partition(" ")[0].partition("==")
        versions.setdefault(name, []).append(version)
    return versions


def lower_bounds():
    """Return the lower bound of each requirement in setup.py."""
    # Later extras are not part of these locks.
    text = (ROOT / "setup.py").read_text().partition('"torch": [')[0]
    matches = re.findall(r'"([A-Za-z][\w-]*)(?:==|>=)(\d[\d.]*)"', text)
    return {name.lower().replace("_", "-"): version for name, version in matches}


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-oldest.lock"])
def test_lock_pins_every_requirement_without_urls(lock):
    required = set(lower_bounds())
    assert {"tensorflow", "keras", "cleverhans", "pytest"} <= required
    assert required <= set(pins(lock))
    assert not set(pins(lock)) & {"torch", "torchvision", "jax"}


def test_torch_has_a_lock_of_its_own():
    # CUDA is not pinned: it comes with the plain wheel only.
    torch, others = pins("requirements-torch.lock"), pins("requirements.lock")
    assert "torch" in torch and "torch" not in others
    # What both need, for some versions of Python, is installed once.
    assert {name: torch[name] for name in torch if name in others} == {
        name: others[name] for name in others if name in torch
    }
    assert not [name for name in torch if name.startswith(("nvidia", "cuda", "triton"))]


def test_oldest_lock_pins_the_lower_bounds():
    # 2.0 may be pinned as 2.0.2, if that is the first release of 2.0.
    oldest = pins("requirements-oldest.lock")
    too_new = {
        name: oldest[name]
        for name, bound in lower_bounds().items()
        if not any(f"{version}.".startswith(f"{bound}.") for version in oldest[name])
    }
    assert not too_new, "Run make lock-oldest, or raise these lower bounds in setup.py."


def test_bazel_has_a_target_for_every_test_file(tmp_path):
    bazel = shutil.which("bazel")
    if bazel is None:
        pytest.skip("bazel is not installed.")
    if "TEST_SRCDIR" in os.environ:
        pytest.skip("Bazel is running this test; it cannot run another Bazel.")
    result = subprocess.run(
        [bazel, "--batch", f"--output_user_root={tmp_path}", "query", "//..."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    targets = set(result.stdout.split())
    tests = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert {f"//tests:{path.with_suffix('').as_posix()}" for path in tests} <= targets
    assert {"//hydra_tf:hydra_tf", "//flags:train", "//flags:flags"} <= targets
