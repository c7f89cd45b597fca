"""Files appear whole or not at all."""

import pathlib

import pytest

from hydra_tf.core.files import replacing, unfinished


def test_a_file_appears_when_it_is_whole(tmp_path):
    target = tmp_path / "a.txt"
    with replacing(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
        assert temporary == unfinished(target)
    assert target.read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_an_error_leaves_what_stood_there(tmp_path):
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


def test_what_a_killed_process_left_is_written_over(tmp_path):
    target = tmp_path / "a.txt"
    unfinished(target).write_text("half of something much longer")
    with replacing(target) as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "whole"


def test_a_file_in_a_folder_of_dots_keeps_its_suffix():
    assert unfinished("a.b/net.v2.keras") == pathlib.Path("a.b/.net.v2.unfinished.keras")
