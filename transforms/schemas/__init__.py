"""One contract a relation: its columns, types, ranges and meaning, from which everything else is derived."""

from transforms.importing import unset

# Pandera sets both for PySpark; with the first, Arrow takes a Python datetime's wall clock for UTC, in the user's own code too
with unset("PYARROW_IGNORE_TIMEZONE", "SPARK_LOCAL_IP"):
    import pandera.polars  # noqa: F401
