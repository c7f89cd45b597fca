"""The file of certificates: rows are checked, other files are kept, one writer at a time."""

import json
import os

import numpy as np
import pytest
from scipy.stats import norm

from hydra_tf.core.locks import locked
from hydra_tf.core.types import Sampling, least_draws
from hydra_tf.evaluation import certificates, certify, predict, read_certificates
from hydra_tf.evaluation.certificate_file import open_certificates

SETTINGS = {"sigma": 0.5, "n0": 10, "n": 100, "alpha": 0.001, "seed": 0, "network": "abc"}
LARGEST = 0.5 * norm.ppf(0.001 ** (1 / 100))  # 100 of 100 votes
ROWS = [
    {"index": 0, "image": "a", "label": 1, "predicted": 1, "radius": 0.25, "correct": True},
    {"index": 1, "image": "b", "label": 2, "predicted": 0, "radius": LARGEST, "correct": False},
    {"index": 2, "image": "c", "label": 2, "predicted": -1, "radius": 0.0, "correct": False},
]


def write(path, rows=ROWS, settings=SETTINGS, tail=""):
    path.write_text("".join(json.dumps(row) + "\n" for row in [settings, *rows]) + tail)
    return path


def test_a_consistent_file_is_read(tmp_path):
    assert read_certificates(write(tmp_path / "a.jsonl")) == (SETTINGS, ROWS)
    for tail in ("{", '{"index": 3, "im'):  # an interrupted row
        assert read_certificates(write(tmp_path / "a.jsonl", tail=tail)) == (SETTINGS, ROWS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"index": 2}, "its index is 2, not 1"),
        ({"index": True}, "its index is True, not 1"),
        ({"index": "a" * 3000}, r"its index is 'a{12}\.\.\.a{13}', not 1"),
        ({"image": 7}, "image must be a hash"),
        ({"label": -1}, "label must be a class, not -1"),
        ({"label": "2"}, "label must be a class, not '2'"),
        ({"predicted": -2}, "predicted must be a class, or -1, not -2"),
        ({"predicted": 1.0}, "predicted must be a class, or -1, not 1.0"),
        ({"radius": -0.1}, "radius must be from 0 to 0.75"),
        ({"radius": LARGEST * 1.01}, "radius must be from 0 to 0.75"),
        ({"radius": float("nan")}, "radius must be from 0 to 0.75"),
        ({"radius": float("inf")}, "radius must be from 0 to 0.75"),
        ({"radius": 10**400}, "radius must be from 0 to 0.75"),
        ({"radius": None}, "radius must be from 0 to 0.75"),
        ({"radius": 0.0}, "predicted is 0, but radius is 0.0"),
        ({"predicted": -1}, "predicted is -1, but radius is"),
        ({"correct": True}, "correct is True, but label is 2 and predicted 0"),
        ({"correct": 0}, "correct is 0, but label is 2 and predicted 0"),
    ],
)
def test_an_inconsistent_row_is_named_with_its_line(change, reason, tmp_path):
    path = write(tmp_path / "a.jsonl", [ROWS[0], {**ROWS[1], **change}, ROWS[2]])
    with pytest.raises(ValueError, match=rf"a\.jsonl is damaged, .*\(line 3: {reason}"):
        read_certificates(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("notes", 1),
        ("notes\n", 1),
        ("{}\n", 1),
        ('{"sigma": 0.5}\n', 1),
        (json.dumps({**SETTINGS, "alpha": 2}) + "\n", 1),
        (json.dumps({**SETTINGS, "n": "many"}) + "\n", 1),
        (json.dumps(SETTINGS) + "\n" + "[" * 100_000 + "\n", 2),
        (json.dumps(SETTINGS) + "\n[]\n", 2),
        (json.dumps(SETTINGS) + "\nmy notes", 2),
        (json.dumps(SETTINGS) + "\n" + json.dumps(ROWS[0]) + "\nmy notes", 3),
    ],
)
def test_other_files_are_refused_and_kept(text, line, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with (
        pytest.raises(ValueError, match=rf"notes\.txt is damaged, or not .*\(line {line}: "),
        open_certificates(path, SETTINGS),
    ):
        pass
    assert path.read_text() == text


def test_an_interrupted_first_line_is_completed(tmp_path):
    header = json.dumps(SETTINGS) + "\n"
    for done in ("", header[:1], header[:-1], header):
        (tmp_path / "a.jsonl").write_text(done)
        with open_certificates(tmp_path / "a.jsonl", SETTINGS) as rows:
            assert rows == []
        assert (tmp_path / "a.jsonl").read_text() == header


def test_paths_that_are_not_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, error, message in (
        (tmp_path / "pipe", ValueError, "pipe is not a file; name another one"),
        (tmp_path, IsADirectoryError, "is a folder; name a file to write"),
        (tmp_path / "no" / "a.jsonl", FileNotFoundError, "does not exist; create it first"),
    ):
        with pytest.raises(error, match=message), open_certificates(path, SETTINGS):
            pass
    with pytest.raises(ValueError, match="pipe is not a file"):
        read_certificates(tmp_path / "pipe")


def test_one_process_at_a_time_writes(tmp_path):
    path = write(tmp_path / "a.jsonl")
    before = path.read_text()
    with (
        locked(path),
        pytest.raises(BlockingIOError, match=r"is writing certificates to .*a\.jsonl; wait until"),
        open_certificates(path, SETTINGS),
    ):
        pass
    with open_certificates(path, SETTINGS) as rows:
        assert rows == ROWS
    assert path.read_text() == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_named():
    image = np.zeros([1, 3], "float32")
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        certificates._append("/dev/full", 0, image, [0], [0], [0.1])


@pytest.mark.parametrize(
    ("alpha", "n"), [(0.001, 10), (0.5, 2), (0.25, 3), (0.51, 1), (0.9, 1), (2**-40, 41)]
)
def test_least_draws_by_hand(alpha, n):
    # n agreeing draws bound the probability from below by alpha ** (1 / n), which must exceed 1/2.
    assert least_draws(alpha) == n
    assert Sampling(n=n, alpha=alpha).n == n
    if n > 1:
        with pytest.raises(ValueError, match=f"n={n - 1} draws cannot certify .* least n={n}"):
            Sampling(n=n - 1, alpha=alpha)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 9}, "n=9 draws cannot certify with alpha=0.001.*use at least n=10"),
        ({"n": 2**31}, "n must be at most 1000000000 draws, not 2147483648"),
        ({"n0": 2**31}, "n0 must be at most 1000000000 draws"),
        ({"alpha": 1 - 2**-53}, "is too close to 1"),
        ({"alpha": 0.999999, "n": 10**9}, "is too close to 1"),
        ({"sigma": 1e300}, r"sigma must be from 1e-06 to 1000, not 1e\+300"),
        ({"sigma": 1e-300}, "sigma must be from 1e-06 to 1000, not 1e-300"),
    ],
)
def test_sampling_without_a_certificate_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        certify(None, [], **options)


def test_prediction_without_an_answer_is_refused():
    # 10 agreeing draws have the two-sided p-value 2 / 2^10, above 0.001; 11 are below.
    with pytest.raises(ValueError, match=r"n=10 draws cannot predict .*use at least n=11"):
        predict(None, [], n=10)
    with pytest.raises(ValueError, match=r"use at least n=4"):  # 2 / 2^4 is 0.125 exactly
        predict(None, [], n=3, alpha=0.125)
