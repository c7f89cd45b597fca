import os
import subprocess
import sys

import pytest

from hydra_tf.core.stderr import hidden_stderr


def test_text_of_any_origin_is_hidden_and_the_stream_comes_back(capfd):
    with hidden_stderr():
        os.write(2, b"from C++\n")
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'child')"], check=True)
    sys.stderr.write("after\n")
    assert capfd.readouterr().err == "after\n"


@pytest.mark.parametrize(("show", "text"), [(True, "why it failed"), (False, "")])
def test_an_error_shows_the_hidden_text_if_asked(capfd, show, text):
    def fail():
        with hidden_stderr(show_on_error=show):
            os.write(2, b"why it failed")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert capfd.readouterr().err == text
