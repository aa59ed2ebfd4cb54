"""Imports Feast without side effects on the process; import it before anything that needs Feast."""

import warnings

import pandas as pd  # noqa: F401 - before Feast, whose filters of warnings are undone: NumPy's are not
import prometheus_client  # noqa: F401 - before Feast, which would make it count in files, the user's metrics too

from transforms.importing import unchecked, unset

with (
    unchecked("feast"),
    warnings.catch_warnings(),
    unset("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR"),
):
    import feast

__all__ = ["feast"]
