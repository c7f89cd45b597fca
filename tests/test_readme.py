"""The Python examples of the README run, with fewer epochs and steps."""

import pathlib
import re

import pytest

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
# What makes the first example take minutes.
SHORTER = {
    r"(\w+_epochs)=20": r"\1=1",
    r"steps=10,step_size=0.04": "steps=2,step_size=0.1",
    r"steps=50,restarts=10": "steps=5,restarts=2",
    r'"autoattack:epsilon=0.2"': '"fab:epsilon=0.2,steps=2"',
}


@pytest.mark.slow(seconds=90)
def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = README.read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    code = "\n".join(blocks)
    for pattern, shorter in SHORTER.items():
        assert re.search(pattern, code), pattern
        code = re.sub(pattern, shorter, code)
    exec(compile(code, str(README), "exec"), names)
    assert (names["logits"].lower <= names["logits"].upper).numpy().all()
    assert names["margins"].shape == (128, 10)
    assert names["classes"].shape == names["radii"].shape == (2,)
    assert names["report"].bytes == (tmp_path / "digits_int8.tflite").stat().st_size
    assert names["small"].count_params() <= names["net"].count_params()
