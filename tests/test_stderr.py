import os
import subprocess
import sys

import pytest

from hydra_tf.core.stderr import hidden_stderr


def test_stderr_is_hidden_and_restored(capfd):
    with hidden_stderr():
        os.write(2, b"from C++\n")
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'child')"], check=True)
    sys.stderr.write("after\n")
    assert capfd.readouterr().err == "after\n"


@pytest.mark.parametrize(("show", "text"), [(True, "why it failed"), (False, "")])
def test_hidden_text_is_shown_on_error_if_requested(capfd, show, text):
    def fail():
        with hidden_stderr(show_on_error=show):
            os.write(2, b"why it failed")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert capfd.readouterr().err == text
