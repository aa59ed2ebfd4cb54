"""Importing the client costs nothing: what is heavy is loaded by the first call."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("heavy", ["feast", "prefect", "pandera", "pandas"])
def test_importing_the_client_does_not_load(heavy: str) -> None:
    code = f"import sys, feature_repo; print({heavy!r} in sys.modules, *feature_repo.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "False",
        "TrainingSet",
        "label",
        "online_features",
        "similar_records",
        "spine",
        "store",
        "trace",
        "training_set",
        "warehouse",
    ]


CHECKED = """
from typeguard import typechecked

@typechecked
def double(number: int) -> int:
    return 2 * number
"""
IMPORT = """
import ast, typeguard, feature_repo
typechecked = typeguard.typechecked
parse, parsed = ast.parse, []
# what rewrites a class parses it first
ast.parse = lambda *arguments, **options: parsed.append(arguments) or parse(*arguments, **options)
import feature_repo.importing
print(len(parsed), typeguard.typechecked is typechecked)
import checked
try:
    checked.double("two")
except Exception as error:
    print(type(error).__name__)
"""


def test_feast_is_not_rewritten_when_it_is_imported_and_others_are_checked_as_ever(
    tmp_path: Path,
) -> None:
    (tmp_path / "checked.py").write_text(CHECKED)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    n_parsed, is_put_back, error = done.stdout.split()
    assert int(n_parsed) < 10  # Pydantic and others parse a few; to rewrite Feast takes 242
    assert (is_put_back, error) == ("True", "TypeCheckError")
