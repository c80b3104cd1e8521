"""What holds for all tests.

What lives here: the settings of Hypothesis. What must not live here: a fixture that one directory needs alone.
"""

from hypothesis import settings

# The same examples every time, whatever was found before; no example is timed; one fault, its shortest case, is told.
settings.register_profile("moxy", derandomize=True, deadline=None, database=None, report_multiple_bugs=False)
settings.load_profile("moxy")
