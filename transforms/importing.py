"""Importing libraries without the changes that they make to the process; and quicker."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def unset(*variables: str) -> Iterator[None]:
    """Protect environment variables from a library that sets missing ones while it is imported.

    They are empty in the meantime: the library takes that for set, and everybody else for unset.
    Variables that the user has set stay.

    >>> with unset("MILLRACE_EXAMPLE"):
    ...     _ = os.environ.setdefault("MILLRACE_EXAMPLE", "set by a library")
    >>> "MILLRACE_EXAMPLE" in os.environ
    False
    """
    ours = [name for name in variables if name not in os.environ]
    os.environ.update(dict.fromkeys(ours, ""))
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextmanager
def unchecked(package: str) -> Iterator[None]:
    """Import a package without typeguard, which would rewrite its classes to check arguments.

    For Feast that saves two thirds of the import time. Classes of other packages, imported in the
    meantime, are rewritten as usual.
    """
    import typeguard

    typechecked = typeguard.typechecked

    def typechecked_but_the_package(target: Any = None, **options: Any) -> Any:
        if str(getattr(target, "__module__", "")).startswith(f"{package}."):
            return target
        return typechecked(target, **options)

    typeguard.typechecked = typechecked_but_the_package
    try:
        yield
    finally:
        typeguard.typechecked = typechecked
