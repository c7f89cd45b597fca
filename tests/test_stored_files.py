"""JSON and NumPy archives that may be damaged, errors of the disk, and locks."""

import errno
import os
import zipfile

import numpy as np
import pytest

from hydra_tf.core import archives
from hydra_tf.core.archives import read_archive
from hydra_tf.core.files import naming, replacing
from hydra_tf.core.json_files import parse_object, read_object
from hydra_tf.core.locks import lock, locked


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        (b"\xff", "it is not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "it is not JSON"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"a": ' * 100_000, "it is nested too deeply"),
        ("[1]", "it is not a JSON object"),
        ("null", "it is not a JSON object"),
    ],
)
def test_damaged_json_is_named(text, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        parse_object(text)
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"a\.json is damaged: {reason}\.$"):
        read_object(path)


def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a\.json is not a file"):
        read_object(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "b.json")


def archive_with(path, compression):
    np.savez(path, a=np.arange(1000.0))
    with zipfile.ZipFile(path) as archive:
        content = archive.read("a.npy")
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a.npy", content)
    return path.read_bytes()


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_damage_in_every_compression_is_a_value_error(compression, tmp_path):
    path = tmp_path / "a.npz"
    content = archive_with(path, compression)
    np.testing.assert_array_equal(read_archive(path)["a"], np.arange(1000.0))
    refused = 0
    for offset in range(0, len(content), max(1, len(content) // 150)):
        damaged = bytearray(content)
        damaged[offset] ^= 0xFF
        path.write_bytes(damaged)
        arrays = {}
        try:
            arrays = read_archive(path)
        except ValueError:  # of any other error, the test fails
            refused += 1
        for array in arrays.values():  # bytes without effect, such as time stamps
            np.testing.assert_array_equal(array, np.arange(1000.0))
    assert refused > 75


def test_a_large_shape_is_damage_only_if_the_checksum_is_wrong(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    content = archive_with(path, zipfile.ZIP_STORED)

    def too_large(*_):
        raise MemoryError

    monkeypatch.setattr(archives, "_read", too_large)
    with pytest.raises(MemoryError):
        read_archive(path)
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="one of its arrays is damaged"):
        read_archive(path)


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{}], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_archive(tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError):
        read_archive(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", c=np.zeros(1))
    with pytest.raises(ValueError, match="it contains c"):
        read_archive(tmp_path / "c.npz", [["a", "b"], ["d"]])


def test_entries_that_are_no_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", b"an entry without the header of NumPy")
    with pytest.raises(ValueError, match=r"^a is not an array$"):
        read_archive(tmp_path / "a.npz")


def test_errors_of_the_disk_name_the_file(tmp_path):
    def fail(error):
        with replacing(tmp_path / "a.txt"):
            raise error

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.txt'") as raised:
        fail(full)
    assert raised.value.errno == errno.ENOSPC
    with (
        pytest.raises(OSError, match=r"Input/output error: '.*/a\.txt'"),
        replacing(tmp_path / "a.txt") as temporary,
    ):
        raise OSError(errno.EIO, "Input/output error", str(temporary))
    with pytest.raises(OSError, match=r"a\.txt cannot be written: Unable to synchronously"):
        fail(OSError("Unable to synchronously create dataset"))
    with pytest.raises(OSError, match="other"):
        fail(OSError(errno.EIO, "Input/output error", "other"))
    with pytest.raises(FileNotFoundError, match=r"^a sentence$"), naming("a.txt"):
        raise FileNotFoundError("a sentence")
    assert list(tmp_path.iterdir()) == []


def test_locks_are_exclusive_or_shared(tmp_path):
    path = tmp_path / "a"
    path.write_text("")
    with locked(path), pytest.raises(BlockingIOError, match=r"Another process is using .*a"):
        lock(path, shared=True)
    with locked(path, shared=True):
        with locked(path, shared=True):
            pass
        with pytest.raises(BlockingIOError):
            lock(path)
    handle = lock(path, shared=True)
    assert lock(path, handle=handle) == handle  # now exclusive
    with pytest.raises(BlockingIOError):
        lock(path, shared=True)
    os.close(handle)
    with locked(path, wait=True):
        pass


def test_a_file_system_without_locks_is_warned_about_once(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.EBADF, "Bad file descriptor")  # as of NFS

    monkeypatch.setattr("fcntl.flock", no_locks)
    with caplog.at_level("WARNING"):
        for _ in range(2):
            assert lock(tmp_path) is None
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        f"hydra_tf: {tmp_path} cannot be locked (Bad file descriptor), so no two processes may use "
        "it at once."
    ]


def test_a_wrong_size_in_the_index_does_not_hide_a_changed_value(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(6.0), b=np.ones(2))
    content = bytearray(path.read_bytes())
    content[content.index(np.arange(6.0).tobytes()) + 46] ^= 1  # a bit of the last number
    entry = content.index(b"PK\1\2")  # the first of the index; its sizes claim 16 MB
    content[entry + 22] = content[entry + 26] = 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a has more bytes than its array|Bad CRC-32"):
        read_archive(path)


def test_errors_do_not_repeat_the_file(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(6))
    content = path.read_bytes()
    index = content.index(b"PK\1\2")
    # The local header names something else, and longer, than the index.
    path.write_bytes(content[:26] + b"\xff\1" + content[28:index] + content[index:])
    with pytest.raises(ValueError, match="File name in directory") as error:
        read_archive(path)
    assert len(str(error.value)) <= 200 and "\n" not in str(error.value)
