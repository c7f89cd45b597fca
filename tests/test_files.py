"""Files are written completely or not at all."""

import pathlib

import pytest

from hydra_tf.core.files import replacing, unfinished


def test_file_appears_when_complete(tmp_path):
    target = tmp_path / "a.txt"
    with replacing(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
        assert temporary == unfinished(target)
    assert target.read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_error_keeps_the_previous_file(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("before")

    def fail():
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_leftover_temporary_file_is_overwritten(tmp_path):
    target = tmp_path / "a.txt"
    unfinished(target).write_text("half of something much longer")
    with replacing(target) as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "whole"


def test_temporary_name_keeps_the_suffix():
    assert unfinished("a.b/net.v2.keras") == pathlib.Path("a.b/.net.v2.unfinished.keras")
