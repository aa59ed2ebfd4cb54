"""Import modules and call the client in a process; report what of the process has changed.

`python -m tests.watch HOME MODULE ...` prints JSON: the changes by imports and those by calls.
"""

import importlib
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from types import ModuleType
from typing import Any

OURS = ("__main__", "transforms", "feature_repo", "flows")
# what a user may have imported before; the changes that these make are none of ours
BEFORE = (
    "click",
    "duckdb",
    "fastapi",
    "numpy",
    "pandas",
    "polars",
    "prometheus_client",
    "pyarrow",
    "pydantic",
    "typeguard",
    "uvicorn",
)
State = dict[str, dict[Any, Any]]


class Itself:
    """A value that equals only itself."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]


def state() -> State:
    """Record the environment, the warning filters, every logger, and modules' public attributes."""
    loggers = [
        logging.root,
        *(
            logger
            for logger in logging.root.manager.loggerDict.values()
            if isinstance(logger, logging.Logger)
        ),
    ]
    modules = {
        name: module
        for name, module in sys.modules.items()
        if hasattr(module, "__dict__") and not name.startswith((*OURS, "_"))
    }
    return {
        "environment": dict(os.environ),
        "warnings": dict(enumerate(warnings.filters)),
        **{f"logger {logger.name}": _of_logger(logger) for logger in loggers},
        **{
            f"module {name}": _public(module)
            for name, module in modules.items()
            if "._" not in name
        },
    }


def _of_logger(logger: logging.Logger) -> dict[str, Any]:
    names = ("level", "handlers", "filters", "propagate", "disabled")
    return {
        name: [*value] if isinstance(value := getattr(logger, name), list) else value
        for name in names
    }


def _public(module: ModuleType) -> dict[str, Itself]:
    """A module's attributes, without those in which it keeps late imports or cached lookups."""
    return {name: Itself(value) for name, value in vars(module).items() if not name.startswith("_")}


def changes(before: State, after: State) -> Iterator[str]:
    """Report what differs from before, except new modules and loggers, which imports bring."""
    for what, then in before.items():
        now = after[what]
        # a package gets its submodules as attributes
        names = then.keys() if what.startswith("module") else then.keys() | now.keys()
        yield from (f"{what}: {name}" for name in names if then.get(name) != now.get(name))


def call(home: str) -> None:
    """Call what training and serving code calls."""
    from feature_repo import online_features, store, training_set

    at = datetime(2024, 9, 1, tzinfo=timezone(timedelta(hours=5)))
    count, tenure = "author_activity:n_records_7d", "author_tenure:days_since_first_record"
    store(home)
    training_set(
        f"select 'mitre' as author_id, '{at.isoformat()}' as event_timestamp", [count, tenure], home
    )
    online_features([count, tenure], [{"author_id": "mitre", "event_timestamp": at}], home)


def main(home: str, *modules: str) -> dict[str, list[str]]:
    """Watch imports, then calls."""
    tempfile.mkdtemp()  # `tempfile` remembers its folder and its source of names
    for name in BEFORE:
        importlib.import_module(name)
    logging.getLogger("uvicorn").addFilter(logging.Filter())
    before = state()
    for module in modules:
        importlib.import_module(module)
    imported = state()
    call(home)
    return {"imports": list(changes(before, imported)), "calls": list(changes(imported, state()))}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(main(*sys.argv[1:])))
