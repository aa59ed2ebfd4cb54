"""Importing libraries that change the process they are imported into, without that; and quicker."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def unset(*variables: str) -> Iterator[None]:
    """Keep environment variables unset that a library sets where they are, while it is imported.

    They are empty meanwhile, which the library takes for set and everybody else for unset. What the user has set stays.
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
    """Leave a package's classes as they are written while it is imported, not rewritten by typeguard to check their arguments.

    Of Feast that is two thirds of the time its import takes. Classes of others, imported meanwhile, are rewritten as ever.
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
