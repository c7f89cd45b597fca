"""Honest measures: benign and robust accuracy, reports and plots."""

from hydra_tf.evaluation.accuracy import accuracy, correct_under, robust_accuracy
from hydra_tf.evaluation.report import evaluate_model, write_json

__all__ = ["accuracy", "correct_under", "evaluate_model", "robust_accuracy", "write_json"]
