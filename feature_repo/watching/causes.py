"""Why a served value differs from a training set's, as far as the tables still show it.

What a training set would have said at the time of the read decides: where it was what was served,
the tables have changed since, by other code or by records; where it was not, the online store was
behind the tables, or has a value that the tables never had.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

import polars as pl
import pyarrow as pa
from deltalake.exceptions import DeltaError

from feature_repo.client import store
from feature_repo.watching.compared import Asked, Compared, Logged, same
from transforms.features.registry import registry
from transforms.features.view import View
from transforms.schemas.staging import StagedRecord
from transforms.warehouse.publishing import CODE
from transforms.warehouse.snapshot import connect, create_view
from transforms.warehouse.tables import Warehouse, data_files

LOOK_BACK = 3  # versions of a table that the online store may be behind
SECOND = timedelta(seconds=1)  # Feast's own layout keeps no shorter time
STAGING = StagedRecord.relation()
# what a table says of a version whose files maintenance has deleted
LOST = (OSError, DeltaError, pa.ArrowException)


class Then(NamedTuple):
    """The versions of tables at a read: of each view, and of staging (-1: not yet there)."""

    views: Mapping[str, int]
    staging: int


def name_causes(asked: Asked, compared: Sequence[Compared], logged: Logged) -> None:
    """Name the cause of every difference, in `causes` of what was compared."""
    from feature_repo.stores.served_log import READ_AT

    rows = sorted({row for item in compared for row in item.differing})
    history = History(asked.warehouse)
    read_at = logged.frame[READ_AT]
    relations = [*(view.relation for view in asked.views.values()), STAGING]
    by_versions: dict[tuple[int, ...], list[int]] = {}
    for row in rows:
        versions = tuple(history.version(relation, read_at[row]) for relation in relations)
        by_versions.setdefault(versions, []).append(row)
    for versions, of_versions in by_versions.items():
        then = Then(dict(zip(asked.views, versions, strict=False)), staging=versions[-1])
        with suppress(*LOST):  # then it stays unknown
            _name(Case(asked, logged, then, of_versions), compared)


def _name(case: "Case", compared: Sequence[Compared]) -> None:
    derived = registry().derivations
    for item in sorted(compared, key=lambda item: item.view in derived):
        for row in set(item.differing) & set(case.rows):
            of_bases = (
                cause
                for other in compared
                if item.view in derived and other.view in case.asked.bases[item.view]
                if (cause := other.causes.get(row))
            )
            item.causes[row] = (
                "code_changed"
                if case.is_derived_otherwise(item.view)
                else next(of_bases, None) or case.cause(item, row)
            )


class Case:
    """Rows that were read while the tables had the same versions."""

    def __init__(self, asked: Asked, logged: Logged, then: Then, rows: Sequence[int]) -> None:
        """Ask for the rows again, as of these versions."""
        self.asked, self.logged, self.then, self.rows = asked, logged, then, rows
        self._place = {row: place for place, row in enumerate(rows)}
        self._said = lru_cache(self._ask)
        self._was_said = lru_cache(self._served_before)
        self._served_at = lru_cache(self._event_timestamps)
        self._instants = lru_cache(self._known_instants)
        self._records = lru_cache(self._changed_records)
        self._is_made_otherwise = lru_cache(self._made_otherwise)
        self.is_derived_otherwise = lru_cache(self._derived_otherwise)

    def cause(self, item: Compared, row: int) -> str:
        """Name the cause of one difference."""
        bases = [self.asked.views[base] for base in self.asked.bases[item.view]]
        if self._said(0) is None:
            return "unknown"
        place = self._place[row]
        if self._was_said(item.column, 0)[place]:
            if any(self._is_made_otherwise(view.name) for view in bases):
                return "code_changed"
            found = {cause for view in bases for cause in self._records(view.name).get(row, ())}
            return next((cause for cause in RECORD_CAUSES if cause in found), "unknown")
        served = self._served_at(item.column)[place]
        known = max(
            (at for view in bases if (at := self._instants(view.name).get(row))), default=None
        )
        is_behind = known is not None and (served is None or served < known - SECOND)
        if is_behind or (served is None and item.served[row] is None):
            return "store_older"
        is_former = any(
            self._was_said(item.column, back)[place] for back in range(1, LOOK_BACK + 1)
        )
        return "store_older" if is_former else "altered_online"

    def _derived_otherwise(self, view: str) -> bool:
        """Whether a derived view was computed by other expressions than today's."""
        return view in self.logged.code and self.logged.code[view] != _expressions(self.asked)[view]

    def _served_before(self, column: str, back: int) -> list[bool]:
        """In which rows it was served what a training set said `back` versions before the read."""
        said = self._said(back)
        if said is None:
            return [False] * len(self.rows)
        return list(same(said[column], self.logged.frame[column][list(self.rows)]))

    def _event_timestamps(self, column: str) -> list[datetime | None]:
        return list(self.logged.frame[f"{column}__timestamp"][list(self.rows)])

    def _ask(self, back: int) -> pl.DataFrame | None:
        """What a training set said `back` versions before the read; None where there was none."""
        if min(self.then.views.values()) < 0:
            return None
        versions = {view: max(version - back, 0) for view, version in self.then.views.items()}
        try:
            return self.asked.trained(self.rows, versions)
        except LOST:
            return None

    def _known_instants(self, view: str) -> dict[int, datetime]:
        return self.asked.known_instants(self.asked.views[view], self.then.views[view], self.rows)

    def _made_otherwise(self, view: str) -> bool:
        warehouse, relation = self.asked.warehouse, self.asked.views[view].relation
        then = warehouse.table_at(relation, self.then.views[view])
        return then.transaction_version(CODE) != warehouse.transaction_version(relation, CODE)

    def _changed_records(self, view: str) -> dict[int, set[str]]:
        """What has become of the records of rows' entities since the read."""
        return changed_records(self.asked, self.asked.views[view], self.then.staging, self.rows)


RECORD_CAUSES = ("record_known_later", "record_corrected")


def changed_records(
    asked: Asked, view: View, staging: int, rows: Sequence[int]
) -> dict[int, set[str]]:
    """Tell rows whose entity has new records since a staging version, or new versions of records.

    Where the values of a view may depend on any record, all rows have what any of them has.
    """
    added = asked.warehouse.changes(STAGING, staging).added
    if not added:
        return {}
    with connect(asked.warehouse) as connection:
        create_view(connection, "added", added, StagedRecord.arrow_schema())
        before = data_files(asked.warehouse.table_at(STAGING, staging)) if staging >= 0 else []
        create_view(connection, "before", before, StagedRecord.arrow_schema())
        keys = asked.frame[list(rows)].select(*view.entity.columns, row=pl.Series(rows))
        connection.register("asked", keys.to_arrow())
        found: dict[int, set[str]] = {row: set() for row in rows}
        for cause, is_known in zip(RECORD_CAUSES, ("not in", "in"), strict=True):
            connection.execute(
                f"create or replace temp view changed as from added "
                f"where record_id {is_known} (select record_id from before)"
            )
            is_same = (
                "true" if view.is_rebuilt_whole else f"entity_id = {view.entity.id_of_columns}"
            )
            entities = view.entities_of("changed")
            named = connection.execute(
                f"select distinct row from asked, ({entities}) where {is_same}"
            ).fetchall()
            for (row,) in named:
                found[row].add(cause)
    return found


class History:
    """When the versions of a home's tables were committed."""

    def __init__(self, warehouse: Warehouse) -> None:
        """Take the home."""
        self._warehouse = warehouse
        self._commits = lru_cache(self._read)

    def version(self, relation: str, at: datetime) -> int:
        """The newest version of a table at an instant; -1 where it had none."""
        instants = self._commits(relation)
        return bisect_right(instants, at.timestamp() * 1000) - 1

    def _read(self, relation: str) -> list[float]:
        table = self._warehouse.table(relation)
        if table is None:
            return []
        at = {entry["version"]: float(entry["timestamp"]) for entry in table.history()}
        return [at.get(version, 0.0) for version in range(table.version() + 1)]


def _expressions(asked: Asked) -> dict[str, str]:
    """What derived views are computed by today, digested as the log has it."""
    from feature_repo.stores.served import expressions_digest
    from feature_repo.stores.serving import EXPRESSIONS

    views = store(asked.warehouse.settings.root).list_on_demand_feature_views()
    return {view.name: expressions_digest(view) for view in views if EXPRESSIONS in view.tags}
