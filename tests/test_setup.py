"""The set-up resolves for every supported Python; `make wheels` checks the registry's wheels."""

import tomllib
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()]


def _holds(requirement: Requirement, python: str, extras: Iterable[str] = ()) -> bool:
    environments = [
        {"python_version": python, "python_full_version": f"{python}.0", "extra": extra}
        for extra in ("", *extras)
    ]
    return requirement.marker is None or any(map(requirement.marker.evaluate, environments))


def _needed(python: str) -> set[str]:
    """Follow what `make setup` installs to all its requirements, as the packages state them."""
    extras = PROJECT["optional-dependencies"]
    listed = [
        Requirement(line) for line in (*PROJECT["dependencies"], *extras["demo"], *extras["dev"])
    ]
    due = [requirement for requirement in listed if _holds(requirement, python)]
    found: dict[str, set[str]] = {}
    while due:
        requirement = due.pop()
        name = canonicalize_name(requirement.name)
        if name in found and requirement.extras <= found[name]:
            continue
        found[name] = found.get(name, set()) | requirement.extras
        with suppress(PackageNotFoundError):  # for another Python than this
            needed = [Requirement(line) for line in requires(name) or ()]
            due += [item for item in needed if _holds(item, python, requirement.extras)]
    return set(found)


def test_every_python_that_is_promised_is_looked_at() -> None:
    promised = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(30) if f"3.{minor}" in promised] == list(PYTHONS)


@pytest.mark.parametrize("python", PYTHONS)
def test_all_that_is_needed_is_pinned(python: str) -> None:
    pinned = {canonicalize_name(pin.name) for pin in PINS if _holds(pin, python)}
    # which builds this project, and pip brings
    assert sorted(_needed(python) - pinned - {"setuptools"}) == []
