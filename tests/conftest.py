"""What holds for all tests.

What lives here: the settings of Hypothesis, and how many tests run at a time. What must not live here: a fixture that
one directory needs alone.
"""

import os

import pytest
from hypothesis import settings

# The same examples every time, whatever was found before; no example is timed; one fault, its shortest case, is told.
settings.register_profile("moxy", derandomize=True, deadline=None, database=None, report_multiple_bugs=False)
settings.load_profile("moxy")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: many tests wait, for a process, a deadline or a disk."""
    return (os.cpu_count() or 1) + 1
