"""What is wrong with declarations.

What their registry finds, kernels that give other features than they declare, tests that are none.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from transforms.errors import DeclarationError
from transforms.features.engine.kernels import given_name
from transforms.features.engine.record import KernelView
from transforms.features.registry import Registry, read_registry
from transforms.features.testing import read_cases, tests_of
from transforms.home import Settings
from transforms.schemas.staging import StagedRecord


def user_files() -> list[Path]:
    """The files of the user's own declarations."""
    return [path for folder in Settings().feature_folders for path in sorted(folder.glob("*.py"))]


def faults() -> list[str]:
    """Say what is wrong, a line each: file, view, feature, and how to fix it."""
    registry = read_registry()
    files = user_files()
    missing = (
        []
        if Settings().features is None
        else [folder for folder in Settings().feature_folders if not folder.is_dir()]
    )
    found = [f"{folder}: is no folder, and MILLRACE_FEATURES names it" for folder in missing]
    return [
        *found,
        *registry.errors,
        *_kernel_faults(registry, files),
        *_test_faults(registry, files),
    ]


def _kernel_faults(registry: Registry, files: list[Path]) -> Iterator[str]:
    """Run the kernels of the user's record views over no records.

    They must give what the class declares.
    """
    for name, view in registry.views.items():
        if (
            isinstance(view, KernelView)
            and registry.paths[name] in files
            and (fault := _kernel_fault(view, registry))
        ):
            yield f"{registry.paths[name]}: {name}: {fault}"


def _kernel_fault(view: KernelView, registry: Registry) -> str | None:
    try:
        made = view.kernel(_no_records(view, registry).lazy()).collect().schema
    except Exception as error:  # noqa: BLE001 - whatever a user's code raises is said in one line
        return (
            f"compute fails on no records: {type(error).__name__}: "
            f"{(str(error) or 'no reason given').splitlines()[0]}"
        )
    for column in view.contract.columns():
        if column.name not in made:
            return (
                f"{column.name}: compute gives no column of this name; it gives {', '.join(made)}"
            )
        if made[column.name] != column.dtype:
            return (
                f"{column.name}: compute gives {made[column.name]}, declared is {column.dtype}; "
                f"cast it, e.g. .cast(pl.{column.dtype})"
            )
    return None


def _no_records(view: KernelView, registry: Registry) -> pl.DataFrame:
    """No records, in the columns that a kernel is given."""
    types = {column.name: column.dtype for column in StagedRecord.columns()}
    given = {name: types[name] for name in ("record_id", "event_timestamp", "text")} | {
        "created_timestamp": types["event_timestamp"]
    }
    for name in view.contract.Config.metadata["reads"]:
        of_view, _, feature = name.rpartition(".")
        columns = (
            {column.name: column.dtype for column in registry.views[of_view].contract.columns()}
            if of_view
            else types
        )
        given[given_name(name)] = columns[feature]
    return pl.DataFrame(schema=given)


def _test_faults(registry: Registry, files: list[Path]) -> Iterator[str]:
    """Read the tests.

    Where a declaration of their file cannot be read, what it says is wrong is enough.
    """
    if registry.errors:
        return
    for path in (tests_of(file) for file in files):
        try:
            if path.is_file():
                read_cases(path, registry)
        except DeclarationError as error:
            yield str(error)
