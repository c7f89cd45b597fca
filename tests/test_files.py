"""Files are written completely or not at all, also by several writers at once."""

import os
import pathlib
import subprocess
import sys
import threading

import pytest

from hydra_tf.core.files import is_unfinished, replacing, unfinished


def test_file_appears_when_complete(tmp_path):
    target = tmp_path / "a.txt"
    with replacing(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
        assert is_unfinished(temporary.name, "a.txt")
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


@pytest.mark.parametrize("leftover", [".a.unfinished-0123abcd.txt", ".a.unfinished.txt"])
def test_leftovers_of_killed_processes_are_removed(leftover, tmp_path):
    target = tmp_path / "a.txt"
    (tmp_path / leftover).write_text("half of something much longer")
    (tmp_path / ".ab.unfinished-0123abcd.txt").write_text("of another file")
    with replacing(target) as temporary:
        temporary.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == [".ab.unfinished-0123abcd.txt", "a.txt"]
    assert target.read_text() == "whole"


def test_two_writers_of_one_file_do_not_share_it(tmp_path):
    target = tmp_path / "a.txt"
    with replacing(target) as outer:
        outer.write_text("outer")
        with replacing(target) as inner:
            inner.write_text("inner")
            assert outer.read_text() == "outer"
        assert target.read_text() == "inner"
    assert target.read_text() == "outer"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_file_of_a_running_process_is_not_removed(tmp_path):
    code = (
        "import sys; from hydra_tf.core.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('slow'); print('writing', flush=True); input()\n"
    )
    root = pathlib.Path(__file__).resolve().parents[1]
    target = tmp_path / "a.txt"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": root}
    process = subprocess.Popen([sys.executable, "-c", code, str(target)], **pipes)
    assert process.stdout.readline() == "writing\n"
    with replacing(target) as temporary:
        temporary.write_text("quick")
    assert target.read_text() == "quick"
    process.communicate("\n", timeout=30)
    assert process.returncode == 0
    assert target.read_text() == "slow"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_many_writers_leave_one_whole_file(tmp_path):
    target, texts = tmp_path / "a.txt", [str(i) * 10_000 for i in range(8)]
    errors = []

    def write(text):
        try:
            for _ in range(20):
                with replacing(target) as temporary:
                    temporary.write_text(text)
                    assert temporary.read_text() == text
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=[text]) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert target.read_text() in texts
    assert os.listdir(tmp_path) == ["a.txt"]


def test_temporary_name_keeps_the_suffix():
    path = unfinished("a.b/net.v2.keras")
    assert path.parent == pathlib.Path("a.b")
    assert path.suffix == ".keras"
    assert path != unfinished("a.b/net.v2.keras")
    assert is_unfinished(path.name, "net.v2.keras")
    assert not is_unfinished(path.name, "net.keras")
    assert not is_unfinished("net.v2.keras", "net.v2.keras")
