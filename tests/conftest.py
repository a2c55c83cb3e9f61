"""The fixture that runs scripts, for all tests, and a quick garbage collector."""

import gc
import runpy
import sys

import pytest
import tiny


@pytest.fixture
def script(monkeypatch, capsys):
    """Run scripts/<name>.py with arguments -> exit status, stdout, stderr."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        status = 0
        try:
            runpy.run_path(str(tiny.ROOT / "scripts" / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


def pytest_collection_finish():
    gc.freeze()  # what has been imported stays; else each collection takes half a second, and a training run makes two
