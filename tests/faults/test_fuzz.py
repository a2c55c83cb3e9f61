"""A few cases of every kind of bad input; soak.py runs thousands. What each must do is said in fuzz.py.

python -m pytest -q tests/faults/test_fuzz.py        # a quarter of a minute
"""

import os

import fuzz
import fuzz_scripts
import pytest
from hypothesis import HealthCheck, given, settings

import data.tokens
import metrics


@pytest.fixture(scope="module", autouse=True)
def good(tmp_path_factory):
    """A good run to damage, and the end that it comes to undamaged."""
    before, folder, revision = os.getcwd(), data.tokens.FOLDER, metrics.git_revision
    metrics.git_revision = lambda: None  # asks git each time
    fuzz.prepare(tmp_path_factory.mktemp("fuzz"))
    fuzz.fresh(target="straight")
    assert fuzz.call(*fuzz.arguments(init_from="resume", out_dir="straight"))[0] == 0
    yield
    os.chdir(before)
    data.tokens.FOLDER, metrics.git_revision = folder, revision


KINDS = fuzz.KINDS | fuzz_scripts.KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_one_line_and_loses_nothing(kind):
    strategy, check = KINDS[kind]

    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def run(case):
        assert check(case) is None

    run()
