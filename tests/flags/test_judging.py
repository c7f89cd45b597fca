"""What commands say of judged files."""

from __future__ import annotations

import types

import numpy as np

import hydra_tf.export
from flags.shared import judging, study_judge


def judged():
    """Return a judgement as a report has it, of a file with too little agreement."""
    latency = {"milliseconds": 0.1, "peak_bytes": 10**6}
    return {
        "samples": 1000, "agreement": 0.988, "benign_accuracy": 0.9, "keras_benign_accuracy": 0.9,
        "attacks": [], "era": 0.9, "keras_era": 0.9, "certified": None, "bytes": 10,
        "gzip_bytes": 9, "bound_ratio": None, "latency": latency, "dense_latency": latency,
        "warnings": ["12 of 1,000 differ."],
    }  # fmt: skip


def test_the_command_shows_the_agreement_and_the_warning():
    lines = list(judging.lines(judged()))
    (agreement,) = [line for line in lines if line.startswith("agreement")]
    assert agreement.split()[:4] == ["agreement", "98.80%", "of", "1,000"]
    assert lines[-1] == "12 of 1,000 differ.\n"


def test_a_study_warns_of_its_files(monkeypatch, caplog, tmp_path):
    batches = [(np.zeros([2, 4], "float32"), np.zeros(2))]
    data = types.SimpleNamespace(validation=types.SimpleNamespace(take=lambda _: batches))
    monkeypatch.setattr(study_judge.networks, "load_network", lambda out: None)
    monkeypatch.setattr(study_judge.training_run, "load_data", lambda config, seed: data)
    monkeypatch.setattr(hydra_tf.export, "to_tflite", lambda *_, **__: None)
    monkeypatch.setattr(study_judge.judging, "judge", lambda *_, **__: judged())
    config = {"seed": 0, "split": "test"}
    study_judge._judged(str(tmp_path), config, "int8", "int8", verbose=0)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning == f"hydra_tf: {tmp_path}/int8.tflite: 12 of 1,000 differ."
