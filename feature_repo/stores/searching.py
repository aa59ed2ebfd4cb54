"""Which entities of the SQLite store a search may find: by words, filters and time to live.

Every row is looked at, as the comparison of vectors in `nearest` does, so there is no index to
keep. What the words `rank` (bm25, the best first) are Feast's; filters mean what they mean in
Feast's own SQLite store, whose translation is taken.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple

from feast.feature_view import FeatureView
from feast.infra.online_stores.sqlite import SqliteFilterTranslator
from feast.value_type import ValueType

from feature_repo.stores.values import RequestError
from transforms.expressions import quoted

NUMBERS = {ValueType.INT32, ValueType.INT64, ValueType.FLOAT, ValueType.DOUBLE}
RESERVED = {"rank", "rowid", "entity_key"}  # by the full-text table


class Search(NamedTuple):
    """A search of one view's table.

    `oldest` is the least event timestamp in the time to live, or None.
    """

    view: FeatureView
    table: str
    filters: Any
    oldest: int | None

    def candidates(self) -> tuple[str, list[Any], str, list[Any]]:
        """Compose a search of rows `stored`: a common table, a condition, their parameters."""
        numbers, flags = (
            [field.name for field in self.view.features if field.dtype.to_value_type() in kinds]
            for kinds in (NUMBERS, {ValueType.BOOL})
        )
        valued = f"""valued as (
            select entity_key, feature_name, value_text, case
                when feature_name in ({_marks(numbers)}) then cast(value_text as real)
                when feature_name in ({_marks(flags)}) then cast(value_text = 'True' as real)
            end as value_num
            from {quoted(self.table)}
        )"""
        try:
            condition, parameters = SqliteFilterTranslator("valued", alias="stored").translate(
                self.filters
            )
        except ValueError as error:
            raise RequestError(str(error)) from error
        if self.oldest is not None:
            condition, parameters = (
                f"{condition or 'true'} and is_held(stored.event_ts, ?)",
                [*parameters, self.oldest],
            )
        return valued, [*numbers, *flags], condition or "true", parameters

    def by_words(
        self, connection: sqlite3.Connection, words: str, top_k: int
    ) -> list[tuple[bytes, float]]:
        """Find the entities whose String features best fit an FTS5 query, best first.

        Of equal ones, the lesser key comes first.

        Raises RequestError where the view has no text, or the query is none.
        """
        names = [
            field.name
            for field in self.view.features
            if field.dtype.to_value_type() == ValueType.STRING
        ]
        if not names:
            message = (
                f"view {self.view.name} has no String feature in which words could be searched"
            )
            raise RequestError(message)
        valued, valued_parameters, condition, parameters = self.candidates()
        columns = ", ".join(map(quoted, _columns(names)))
        values = ", ".join(
            ["max(stored.value_text) filter (where stored.feature_name = ?)"] * len(names)
        )
        try:
            connection.execute(
                f"create virtual table temp.searched using fts5(entity_key unindexed, {columns}, "
                'tokenize="porter unicode61")'
            )
            connection.execute(
                f"""
                with {valued}
                insert into temp.searched
                select stored.entity_key, {values} from {quoted(self.table)} as stored
                where stored.feature_name in ({_marks(names)}) and {condition} group by 1
                """,
                [*valued_parameters, *names, *names, *parameters],
            )
            found = (
                "select entity_key, bm25(searched) from temp.searched "
                "where searched match ? order by 2, 1 limit ?"
            )
            with closing(connection.execute(found, [words, top_k])) as rows:
                return rows.fetchall()
        except sqlite3.OperationalError as error:
            if (
                "fts5" not in str(error)
                and "no such column" not in str(error)
                and "unterminated" not in str(error)
            ):
                raise
            message = (
                "query_string: no full-text query of SQLite's (FTS5): give words, or put them "
                "between double quotes"
            )
            raise RequestError(message) from error


def _columns(names: Sequence[str]) -> list[str]:
    """Name the columns as the features, but for names that the full-text table cannot have."""
    taken = {*RESERVED}
    columns = []
    for place, name in enumerate(names):
        columns.append(f"{name}_{place}" if name.lower() in taken else name)
        taken.add(name.lower())
    return columns


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
