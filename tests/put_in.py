"""A plugin of pytest: scikit-learn's own tests run with our classes in place of theirs, `pytest -p put_in ...`.

PUT_IN=theirs leaves scikit-learn's, to see which tests fail without us.
"""

import os
import sys

import pytest
import sklearn.neural_network

import fastbp.sklearn

NAMES = ("MLPClassifier", "MLPRegressor")

if os.environ.get("PUT_IN") != "theirs":
    for name in NAMES:
        setattr(sklearn.neural_network, name, getattr(fastbp.sklearn, name))


@pytest.fixture
def global_random_seed():
    """scikit-learn's conftest has this one; here its conftest is left out."""
    return 42


@pytest.fixture
def pyplot():
    return pytest.importorskip("matplotlib.pyplot")


def pytest_runtest_logreport(report):
    """A line for each test, which is what the caller reads: its outcome and its name."""
    if report.when == "call" or report.outcome != "passed":
        print(f"\nPUT_IN {report.outcome} {report.nodeid.partition('::')[2]}", file=sys.stderr)


def pytest_collection_modifyitems(items):
    module = items[0].module
    for name in NAMES:
        assert getattr(module, name).__module__.startswith(
            "sklearn." if os.environ.get("PUT_IN") == "theirs" else "fastbp."
        )
