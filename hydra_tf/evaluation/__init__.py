"""Benign, robust, certified and verified accuracy, reports and plots."""

from hydra_tf.evaluation.accuracy import accuracy, correct_under, robust_accuracy
from hydra_tf.evaluation.certificate_file import read_certificates
from hydra_tf.evaluation.certificates import (
    RADII,
    VRA_S_RADIUS,
    certified_accuracy,
    certify_dataset,
)
from hydra_tf.evaluation.certify import certify, predict
from hydra_tf.evaluation.distances import (
    Distances,
    labelled_distances,
    minimal_distances,
    robust_accuracy_curve,
    write_distances,
)
from hydra_tf.evaluation.report import evaluate_model, write_json
from hydra_tf.evaluation.verify import verified_accuracy, verified_under

__all__ = [
    "RADII",
    "VRA_S_RADIUS",
    "Distances",
    "accuracy",
    "certified_accuracy",
    "certify",
    "certify_dataset",
    "correct_under",
    "evaluate_model",
    "labelled_distances",
    "minimal_distances",
    "predict",
    "read_certificates",
    "robust_accuracy",
    "robust_accuracy_curve",
    "verified_accuracy",
    "verified_under",
    "write_distances",
    "write_json",
]
