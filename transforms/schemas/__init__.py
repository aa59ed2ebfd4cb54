"""One contract per relation: its columns, types, ranges and meaning.

Everything else about the shape of a relation is derived from it.
"""

from transforms.importing import unset

# Pandera sets both for PySpark. With the first, Arrow takes a Python datetime's wall clock for UTC,
# in the user's own code too
with unset("PYARROW_IGNORE_TIMEZONE", "SPARK_LOCAL_IP"):
    import pandera.polars  # noqa: F401
    from pandera.backends.polars.register import register_polars_backends

# a check that is made before this is of no kind of frame until Pandera first calls it
register_polars_backends()
