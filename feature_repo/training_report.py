"""The report of a training set: rows, nulls and drift by split, ages of values, and leaks."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from transforms.features.build import staging_version
from transforms.features.registry import registry, view_name
from transforms.home import Settings, replace_file
from transforms.pages import Table, minute, percent, render, short
from transforms.pages.notebook import fragment
from transforms.training.probes import (
    TOO_WELL,
    Age,
    Measured,
    Recomputed,
    ages,
    measure,
    recompute,
    snapshot,
)
from transforms.training.splits import TIME, Splits, rows_by_split
from transforms.warehouse.tables import Warehouse

if TYPE_CHECKING:
    from feature_repo.client import TrainingSet

UNITS = ((86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds"))


def write(made: "TrainingSet", path: Path, splits: Splits | None, n_probed: int) -> list[str]:
    """Write the report of a training set; return its leaks, a line each."""
    facts, frame = made.about, made.frame
    parts: Mapping[str, pl.DataFrame] = _halves(frame) if splits is None else splits
    measured = sorted(measure(parts, facts.get("keys", ())), key=lambda one: -(one.auc or 0))
    warehouse = Warehouse(Settings(home=made.home))
    versions = {view: at for view, at in made.lock["tables"].items() if at is not None}
    names = [view for view in versions if view in registry().views]
    staged = staging_version(warehouse, versions)
    with snapshot(warehouse, versions, staged) as connection:
        aged = ages(connection, frame, names)
        again = recompute(connection, warehouse, frame, names, staged, n_probed)
    leaks = [*_too_good(measured), *_changed(again)]
    page = render(
        files("feature_repo").joinpath("training_report.html").read_text("utf-8"),
        home=made.home.name,
        made=datetime.now(UTC),
        headline=_headline(frame, facts, leaks),
        splits=rows_by_split(parts),
        notes=list(_notes(facts, splits)),
        leaks=leaks,
        too_well=TOO_WELL,
        n_probed=min(n_probed, frame.height),
        recomputed=_recomputed(again),
        names=list(parts),
        features=measured,
        ages=_ages(aged),
    )
    replace_file(path, page.encode())
    return leaks


def summary(made: "TrainingSet") -> str:
    """Say for a notebook what a training set has: rows, label, features with who reads them, lock.

    Rows themselves are in `frame`, which shows itself.
    """
    facts, lock = made.about, made.lock
    asked = lock["features"]
    balance = facts.get("balance", {})
    shown = [
        ("rows", made.frame.height),
        ("of", ", ".join(facts.get("of", ["a spine"]))),
        ("features", asked if isinstance(asked, str) else f"{len(asked)} by name"),
        *((f"label {value}", n) for value, n in balance.items()),
        *((("horizon still open", facts["n_horizon_open"]),) if balance else ()),
    ]
    return fragment("Training set", shown, [_features(made.frame), _lock(lock)])


def _features(frame: pl.DataFrame) -> Table:

    def nulls(column: pl.Series) -> float:
        return column.null_count() / max(len(column), 1)

    rows = [
        (name, str(column.dtype), percent(nulls(column)), _readers(name))
        for name, column in zip(frame.columns, frame, strict=True)
        if "__" in name
    ]
    return Table("Features", ["feature", "type", "null", "services that read it"], rows)


def _readers(column: str) -> str:
    """Name the services that read the feature of a column, `view__feature`."""
    view, _, feature = column.partition("__")
    names = {view, f"{view}:{feature}"}
    services = registry().services.values()
    return ", ".join(one.name for one in services if names & {*map(view_name, one.features)})


def _lock(lock: Mapping[str, Any]) -> Table:
    rows = [
        (f"features.{view}", "" if at is None else str(at), lock["code"][view] or "")
        for view, at in lock["tables"].items()
    ]
    return Table("Lock", ["table", "version", "code"], rows)


def _halves(frame: pl.DataFrame) -> dict[str, pl.DataFrame]:
    ordered = frame.sort(TIME, maintain_order=True)
    middle = ordered.height // 2
    return {"earlier half": ordered[:middle], "later half": ordered[middle:]}


def _too_good(measured: Sequence[Measured]) -> Iterator[str]:
    for one in measured:
        if one.auc is not None and one.auc >= TOO_WELL:
            yield f"{one.feature} tells true labels from false ones alone: AUC {one.auc:.3f}"


def _changed(again: Sequence[Recomputed]) -> Iterator[str]:
    for one in again:
        if one.n_changed:
            yield (
                f"{one.feature} has another value in {one.n_changed} of {one.n_checked} rows once "
                "what came later is deleted"
            )


def _headline(
    frame: pl.DataFrame, facts: Mapping[str, Any], leaks: Sequence[str]
) -> list[tuple[str, str, str, str]]:
    mood = ("see below", "bad") if leaks else ("by what was probed", "good")
    shown = [
        ("Rows", f"{frame.height:,}", f"of {', '.join(facts.get('of', ['a spine']))}", ""),
        ("Leaks", f"{len(leaks)}", *mood),
    ]
    if "balance" in facts:
        n_rows = max(sum(facts["balance"].values()), 1)
        rarest_first = sorted(facts["balance"].items(), key=lambda one: (one[0] != "true", one[1]))
        value, n_of_it = next(iter(rarest_first), ("", 0))
        of_all = f"{n_of_it:,} of {n_rows:,} rows"
        shown.append((f"Label {value}", f"{n_of_it / n_rows:.2%}", of_all, ""))
        shown.append(("Without a label", f"{facts['n_horizon_open']:,}", "horizon still open", ""))
    return shown


def _notes(facts: Mapping[str, Any], splits: Splits | None) -> Iterator[str]:
    if "known_until" in facts:
        until = datetime.fromisoformat(facts["known_until"])
        yield f"The home knows what happened until {minute(until)}."
    if facts.get("n_unlabelled"):
        yield f"{facts['n_unlabelled']:,} rows have no label and are left out."
    if "drawn" in facts:
        drawn = ", ".join(f"{value}: {n:,}" for value, n in facts["drawn"].items())
        yield f"Negative rows were drawn, and the rows have weights; kept are {drawn}."
    if splits is None:
        yield "No splits were given; the halves have no embargo between them."
    elif splits.n_embargo or splits.n_other:
        yield (
            f"In no split: {splits.n_embargo:,} rows of the embargo, {splits.n_other:,} rows of "
            "entities that belong to another split."
        )


def _recomputed(again: Sequence[Recomputed]) -> Table:
    caption = "Values computed again without what came later"
    return Table(caption, ["feature", "rows", "other values"], [tuple(one) for one in again])


def _ages(aged: Sequence[Age]) -> Table:
    rows = [(one.view, one.n_rows, _span(one.median), _span(one.most)) for one in aged]
    return Table("Age of each view's rows", ["view", "rows", "half within", "95 % within"], rows)


def _span(seconds: float | None) -> str:
    """Write a time in its largest unit.

    >>> _span(7200.0), _span(None)
    ('2 hours', '')
    """
    if seconds is None:
        return ""
    length, unit = next((one for one in UNITS if seconds >= one[0]), UNITS[-1])
    return f"{short(seconds / length)} {unit}"
