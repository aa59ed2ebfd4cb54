"""The SQL models: one file a relation, with its grain and what it reads in the header."""

from importlib.resources import files


def model(name: str) -> str:
    """Read an SQL model by its path below this folder, e.g. `features/author_activity`.

    >>> model('features/record_spans').splitlines()[0][:16]
    '-- record_spans:'
    """
    return files(__name__).joinpath(f"{name}.sql").read_text("utf-8")
