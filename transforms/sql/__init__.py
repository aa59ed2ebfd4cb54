"""The SQL models: one file a relation, with its grain and what it reads in the header."""

from importlib.resources import files


def model(name: str) -> str:
    """Read an SQL model by its path below this folder, e.g. `features/author_activity`."""
    return files(__name__).joinpath(f"{name}.sql").read_text("utf-8")
