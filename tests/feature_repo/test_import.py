"""Importing the client costs nothing: what is heavy is loaded by the first call."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("heavy", ["feast", "prefect", "pandera", "pandas"])
def test_importing_the_client_does_not_load(heavy: str) -> None:
    code = f"import sys, feature_repo; print({heavy!r} in sys.modules, sorted(feature_repo.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False ['TrainingSet', 'online_features', 'similar_records', 'store', 'training_set']"
