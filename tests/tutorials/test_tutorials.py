"""The tutorials run offline and print the expected results."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hydra_tf.objectives import OBJECTIVES
from tests.contracts import objective_contract

ROOT = Path(__file__).resolve().parents[2]
PERCENT = r"\s+([\d.]+)%"


def numbers(pattern, printed):
    """Return the numbers that the groups of a pattern match."""
    found = re.search(pattern, printed)
    assert found is not None, (pattern, printed)
    return [float(group) for group in found.groups()]


def run(name, *arguments):
    result = subprocess.run(
        [sys.executable, str(ROOT / "tutorials" / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=900,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.slow(seconds=40)
def test_first_robust_pruning():
    printed = run("01_first_robust_pruning.py")
    benign, robust = re.search(
        r"benign accuracy ([\d.]+)%, robust accuracy ([\d.]+)%", printed
    ).groups()
    # Ten classes: chance is 10%. The network keeps 5% of its weights.
    assert float(benign) > 70
    assert 40 < float(robust) <= float(benign)
    assert "['Conv2D', 'Conv2D', 'Flatten', 'Dense', 'Dense']" in printed
    # All layers compete for the 5%, so that the small first one keeps a larger share.
    zeros = int(re.search(r"zeros in the first kernel: (\d+) of 144", printed).group(1))
    assert 0 < zeros < 0.95 * 144


@pytest.mark.slow(seconds=150)
def test_attack_a_model():
    printed = run("02_attack_a_model.py")
    (validation,) = numbers("validation:" + PERCENT, printed)
    (benign,) = numbers("no attack" + PERCENT, printed)
    names = ("fgsm", "pgd:steps=50", r"pgd:steps=50,restarts=5", r"autoattack:\S+", "all of them")
    fgsm, once, restarts, auto, every = (
        numbers(rf"\n{name}" + PERCENT, printed)[0] for name in names
    )
    assert 55 < every <= min(restarts, auto) and restarts <= once + 1 and once <= fgsm + 1 < benign
    assert abs(validation - once) < 10
    curve = [
        numbers(rf"curve {epsilon:4.2f}" + PERCENT, printed)[0]
        for epsilon in (0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
    ]
    assert curve == sorted(curve, reverse=True)
    assert curve[0] == benign and curve[-1] == 0
    # Benign accuracy, then for each attack the accuracy and both shares.
    row = rf"{PERCENT}, no gradient{PERCENT}, rescued{PERCENT}"
    pattern = rf": benign{PERCENT}" + "".join(
        rf"\n\s+{name}{row}"
        for name in ("cleverhans_pgd\\S+", "pgd\\S+=10", "pgd\\S+=100", "square\\S+")
    )
    rows = {name: numbers(name + pattern, printed) for name in ("natural", "saturated", "rounding")}
    of = {name: (row[0], np.reshape(row[1:], (4, 3))) for name, row in rows.items()}
    assert {row[0] for row in of.values()} == {rows["natural"][0]}
    assert np.all(of["natural"][1][:, 0] < 40) and np.all(of["natural"][1][:, 1:] == 0)
    benign, (cleverhans, pgd, _, square) = of["saturated"]
    assert cleverhans.tolist() == [benign, 100, 0]
    assert pgd[0] < 40 and pgd[1] == pgd[2] > 5 and square[0] < 40
    benign, (_, ten, hundred, square) = of["rounding"]
    assert ten[0] == hundred[0] > benign - 5 and ten[1] == 100 and ten[2] == 0
    (fitting,) = numbers("without rounding:" + PERCENT, printed)
    assert square[0] < ten[0] - 30 and fitting < ten[0] - 30


@pytest.mark.slow(seconds=150)
def test_bound_and_certify():
    printed = run("03_bound_and_certify.py")
    widths, proven = {}, {}
    for name in ("natural", "trades", "crown_ibp"):
        width = r",?\s+".join(rf"{method}\s+([\d.]+)" for method in ("ibp", "crown_ibp", "crown"))
        widths[name] = numbers(rf"width {name}\s+{width}", printed)
        shares = r", ".join(method + PERCENT for method in ("ibp", "crown_ibp", "crown"))
        proven[name] = numbers(
            rf"proven {name}\s+{shares}; under PGD{PERCENT}, benign{PERCENT}", printed
        )
        assert widths[name] == sorted(widths[name], reverse=True)
        # What is proven is true under PGD too, and tighter bounds prove more.
        assert proven[name] == sorted(proven[name])
    assert widths["crown_ibp"][0] < 0.2 * widths["trades"][0]
    assert proven["trades"][1] < 20 and proven["trades"][2] > 60
    assert proven["crown_ibp"][0] > 75 and proven["crown_ibp"][3] > 85
    assert numbers(r"smallest margin over the ball at least (-?[\d.]+)", printed)[0] > 0
    certified = [
        numbers(rf"L2 radius {radius}:" + PERCENT, printed)[0] for radius in (0.0, 0.2, 0.4)
    ]
    assert certified == sorted(certified, reverse=True) and certified[2] > 40
    assert certified[0] > 80
    measured, possible = numbers(r"measured ([\d.]+), possible ([\d.]+)", printed)
    assert measured <= possible == 0.616  # 0.25 * norm.ppf(0.001 ** (1 / 1000))
    assert "L2 radius 0.4 contains Linf radius 0.014 with 28x28 pixels" in printed


@pytest.mark.slow(seconds=300)
def test_four_objectives():
    printed = run("04_four_objectives.py")
    assert "weights kept: 1096" in printed  # 10% of 144 + 2304 + 8192 + 320
    of = {
        (name, density): numbers(rf"{name}\s+{density}" + 5 * PERCENT, printed)
        for name in ("trades", "smoothing", "mixtrain", "crown_ibp")
        for density in ("dense", "10%")
    }
    own = {"trades": 1, "smoothing": 2, "mixtrain": 3, "crown_ibp": 4}
    for (name, density), (benign, era, vra_s, vra_m, vra_t) in of.items():
        # What is proven holds under PGD too.
        assert vra_t <= vra_m + 2 and max(vra_m, vra_t) <= era <= benign and vra_s < benign
        assert of[name, density][own[name]] > 40
        proven_by_ibp = density == "10%" or name == "crown_ibp"
        assert vra_t > 50 if proven_by_ibp else vra_t < 10


@pytest.mark.slow(seconds=150)
def test_bring_your_own_model():
    printed = run("05_bring_your_own_model.py")
    kernels = {"stem": 288, "conv1": 9216, "conv2": 9216, "hidden": 32768, "logits": 640}
    for name, weights in kernels.items():
        assert numbers(rf"kernel {name}\s+(\d+) weights", printed) == [weights]
    densities = dict(zip(kernels, (1.0, 0.2, 0.2, 0.03, 0.5), strict=True))
    own = ", ".join(f"{name} {density:.0%}" for name, density in densities.items())
    assert f"10% by own      {own}" in printed
    validation = {
        name: numbers(rf"validation, {name}:" + PERCENT, printed)[0]
        for name in ("dense", "10% by uniform", "10% by own", "40% by filters")
    }
    assert min(validation.values()) > 55 and validation["dense"] > 70
    best = max(("10% by uniform", "10% by own"), key=validation.__getitem__)
    # Dense; without the channels of the convolutions; without those around `Scale` too.
    parameters = [
        int(number.replace(",", "")) for number in re.findall(r"([\d,]+) parameters", printed)
    ]
    assert parameters[0] == 52_458 and parameters[2] < 0.7 * parameters[1] < 0.3 * parameters[0]
    assert "hidden (208, 64)" in printed and "hidden (208, 25)" in printed
    assert numbers(r"differ by at most ([\d.e-]+)", printed)[0] < 1e-4
    for name, least in (("dense", 70), (best, 65), ("compact", 55)):
        benign, robust = numbers(rf"test, {name}: benign{PERCENT}, under PGD{PERCENT}", printed)
        assert least < robust < benign and benign > 85


@pytest.mark.slow(seconds=300)
def test_moving_from_tfmot():
    printed = run("07_moving_from_tfmot.py")
    assert numbers("TFMOT's program:" + PERCENT + " zeros", printed) == [90.0]
    benign, robust = numbers(
        f"TFMOT's program: benign accuracy{PERCENT}, under PGD{PERCENT}", printed
    )
    assert benign > 85 and robust < 20
    assert re.findall(r"pruned weights, (\d+) of them not 0", printed) == ["0"] * 4
    number = r"\s+([\d.]+)%?"
    rows = {
        name: [float(value) for value in re.search(name + 5 * number, printed).groups()]
        for name in ("float32", "int8, rounded afterwards", "int8, trained with rounding")
    }
    for _, zeros, benign, pgd, square in rows.values():
        assert zeros == 90.0
        assert benign > 85 and 65 < pgd <= benign and pgd <= square <= benign
    dense, afterwards, trained = (values[0] for values in rows.values())
    assert max(afterwards, trained) < dense / 2


@pytest.mark.slow(seconds=200)
def test_edge_journey_and_device(tmp_path):
    printed = run("06_edge_journey.py", tmp_path)
    assert "was not kept: the file has" in printed
    assert "with granularity element would fit" in printed
    size = int(re.search(r"([\d,]+) of 12,000 bytes", printed).group(1).replace(",", ""))
    assert size == (tmp_path / "model.tflite").stat().st_size <= 12_000
    number = r"([\d.]+)% in the file, ([\d.]+)% in Keras"
    benign, robust = (
        [float(value) for value in re.search(f"{name} accuracy: {number}", printed).groups()]
        for name in ("benign", "robust")
    )
    # Ten classes: chance is 10%.
    assert min(benign) > 80 and min(robust) > 60
    assert robust[0] <= benign[0] and abs(benign[0] - benign[1]) < 5
    # The device has none of these.
    absent = dict.fromkeys(("tensorflow", "keras", "hydra_tf"))
    script = ROOT / "tutorials" / "10_on_the_device.py"
    code = f"import runpy, sys; sys.modules.update({absent}); runpy.run_path({str(script)!r})"
    files = [tmp_path / "model.tflite", tmp_path / "digits.npz"]
    device = [sys.executable, "-c", code, *map(str, files)]
    result = subprocess.run(device, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert result.returncode == 0, result.stderr[-2000:]
    accuracy = re.search(r"200 images, accuracy ([\d.]+)%", result.stdout).group(1)
    assert abs(float(accuracy) - benign[0]) < 8  # 200 and 300 images
    assert re.search(r"latency \d+\.\d+ ms", result.stdout)


@pytest.mark.slow(seconds=120)
def test_robust_sub_network():
    printed = run("08_robust_sub_network.py")
    sizes = {"conv1": 288, "conv2": 18432, "hidden": 131072, "logits": 1280}
    for name, size in sizes.items():
        assert re.search(rf"{name}\s+{size // 2} of\s+{size} weights, 0 of them changed", printed)
    natural, magnitude, found = (
        numbers(rf"\n{name}" + 3 * PERCENT, printed)
        for name in ("natural", "largest half", "sub-network")
    )
    assert min(natural[0], magnitude[0], found[0]) > 90
    assert max(natural[1], magnitude[1]) < 40
    # Square does not find more than PGD, so that PGD can be believed.
    assert found[1] > max(natural[1], magnitude[1]) + 20 and found[1] <= found[2] + 3


def definitions_of(name, last_heading):
    """Execute the cells of a tutorial before a heading, and return its names."""
    source = (ROOT / "tutorials" / name).read_text(encoding="utf-8")
    before, heading, _ = source.partition(last_heading)
    assert heading
    names = {"__name__": __name__}
    exec(compile(before, name, "exec"), names)
    return names


@pytest.mark.slow(seconds=30)
def test_own_objective_keeps_the_contract():
    try:
        definitions_of("09_own_objective.py", "# ## Train and prune with it")
        objective = OBJECTIVES.build("misclassification_aware:epsilon=0.1,steps=2")
        assert objective_contract.check_images_in_ball(objective)
        objective_contract.check_random_numbers(objective)
        objective_contract.check_finite(objective)
        objective_contract.check_microbatches(objective)
        objective_contract.check_declarations(objective)
    finally:
        OBJECTIVES._parts.pop("misclassification_aware", None)


@pytest.mark.slow(seconds=200)
def test_own_objective():
    printed = run("09_own_objective.py")
    # p = (1, 3) / 4 and q = (1, sqrt 3) / (1 + sqrt 3); see the tutorial.
    assert numbers(r"loss ([\d.]+), by hand ([\d.]+)", printed) == [0.9498, 0.9498]
    assert "refused: weight must be a finite number of at least 0, not -1." in printed
    validation = [float(v) for v in re.findall(r"validation, .*: ([\d.]+)% under PGD", printed)]
    assert len(validation) == 3 and min(validation) > 45
    weight = 1 if validation[1] >= validation[2] else 5
    for name in ("trades", f"weight {weight}"):
        benign, pgd, auto = numbers(
            rf"test, {name}: benign{PERCENT}, PGD{PERCENT}, AutoAttack{PERCENT}", printed
        )
        assert 40 < auto <= pgd + 1 and pgd < benign and benign > 75
