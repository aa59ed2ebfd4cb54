"""Groups: aggregates of an entity's records, exact at every instant at which one of them changes.

A run extends the newest published rows of an entity by what arrived since. What cannot be extended
is computed from all of the entity's records.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from transforms.errors import DeclarationError, GateError
from transforms.expressions import bound, quoted
from transforms.features.aggregates import Count, Feature, Input, Part
from transforms.features.contracts import UNSERVED, entity_contract, feature_field, stored_field
from transforms.features.declare import GroupBy
from transforms.features.engine.lineage import create_named_versions, explained_records, is_in
from transforms.features.engine.spans import (
    ALL_VERSIONS,
    change_points,
    counts_any,
    create_published,
    create_spans,
    spans_of,
    versions_of,
)
from transforms.features.engine.stretches import Stretch, timelines_by_stretch, timelines_of
from transforms.features.engine.timelines import Timelines, Wanted, timelines
from transforms.features.fingerprint import digest
from transforms.features.inputs import Inputs
from transforms.features.joined import References
from transforms.features.rows import view_batches
from transforms.features.view import Explained, Run, View
from transforms.features.windows import Window
from transforms.sql import model
from transforms.warehouse.snapshot import read_few

# entities are computed in buckets, to bound memory
SPANS_OF_A_BUCKET = 500_000
FEW_ROWS = 10_000
# from these a span's contribution can mostly be subtracted; other parts take all records
EXTENDED = {"sum", "least", "greatest"}
# what is shown of a version behind a value
SHOWN = (
    "record_id",
    "event_timestamp",
    "known_timestamp",
    "is_positive",
    "source_uri",
    "row_number",
    "load_id",
    "windows",
)
COMPUTED_IN = ("transforms.features.engine.timelines", "transforms.features.engine.spans")


class GroupView(View):
    """A declared group as a view."""

    def __init__(self, declaration: GroupBy, record_views: Mapping[str, View]) -> None:
        """Bind the declaration's expressions. Raises `DeclarationError` where one is wrong."""
        self.entity, self.where, self.online = (
            declaration.entity,
            declaration.where,
            declaration.online,
        )
        self._declaration, self._record_views = declaration, record_views
        self._inputs = Inputs(record_views)
        self.references = self._read()
        self.made = [
            feature for aggregate in declaration.aggregates for feature in self._bind(aggregate)
        ]
        self.parts = list(
            dict.fromkeys(part for feature in self.made for part in feature.parts.values())
        )
        self.windows = sorted(
            {feature.window for feature in self.made},
            key=lambda window: (window.length is None, window.length_us, window.hop_us),
        )
        self.contract = entity_contract(
            declaration.name, declaration.description, declaration.entity, self._columns()
        )

    def _read(self) -> References:
        """List the columns that are read, checking the entity's key and the group's condition."""
        try:
            self._refuse_no_key()
        except DeclarationError as error:
            message = f"entity {self.entity.name}: {error}"
            raise DeclarationError(message) from None
        self._refuse_no_condition(self.where)
        return set().union(
            *(
                self._inputs.references(text)
                for text in (*self.entity.keys.values(), self.where)
                if text
            )
        )

    def _refuse_no_key(self) -> None:
        for key in self.entity.keys.values():
            kind = self._inputs.bind(key).kind
            if kind.startswith("list of") != self.entity.many:
                mend = (
                    "with many=True it must be a list"
                    if self.entity.many
                    else "a list-valued key needs many=True"
                )
                message = f"{key!r} is a {kind}; {mend}"
                raise DeclarationError(message)

    def _bind(self, aggregate: Any) -> list[Feature]:
        """Make the features of an aggregate, and add what it reads to `references`."""
        try:
            of = (
                Input("", "whole", is_never_null=True)
                if isinstance(aggregate, Count)
                else self._inputs.bind(aggregate.of)
            )
            self._refuse_no_condition(aggregate.where)
            for text in (aggregate.where, None if isinstance(aggregate, Count) else aggregate.of):
                self.references |= self._inputs.references(text) if text else set()
            return list(aggregate.features(of, self._declaration.windows))
        except DeclarationError as error:
            message = f"{aggregate.feature_name}: {error}"
            raise DeclarationError(message) from None

    def _refuse_no_condition(self, where: str | None) -> None:
        if where and self._inputs.bind(where).kind != "flag":
            message = f"where={where!r} is not a condition that is true or false"
            raise DeclarationError(message)

    @cached_property
    def stored(self) -> dict[tuple[Part, Window], str]:
        """The column that stores each part in each window.

        It is a feature's own column where the feature is just that part, else one that is not
        served.
        """
        stored = {
            (feature.parts["v"], feature.window): feature.name
            for feature in self.made
            if feature.value == "{v}"
        }
        for feature in self.made:
            for name, part in feature.parts.items():
                stored.setdefault((part, feature.window), f"{feature.name}{UNSERVED}{name}")
        return stored

    def _columns(self) -> dict[str, Any]:
        served = {feature.name: feature_field(feature) for feature in self.made}
        if len(served) < len(self.made):
            twice = next(
                feature.name
                for feature in self.made
                if sum(other.name == feature.name for other in self.made) > 1
            )
            message = f"{twice}: two features of a view have this name; say name=..."
            raise DeclarationError(message)
        unserved = {
            column: stored_field(f"Sum that {column} is made of.")
            for column in self.stored.values()
            if column not in served
        }
        return served | unserved

    @property
    def reads(self) -> tuple[str, ...]:
        """The record views whose features are read."""
        return tuple(sorted({view for view, *rest in self.references if rest}))

    def digest(self) -> int:
        """Digest the declaration as it is bound, the engine, and the views that are read."""
        declared = repr(
            (
                self.entity.sql,
                self.where,
                [
                    (feature.name, feature.window, feature.parts, feature.value)
                    for feature in self.made
                ],
            )
        )
        return digest(
            self.contract,
            COMPUTED_IN,
            declared,
            (self._record_views[name].digest() for name in self.reads),
        )

    def rows(self, run: Run, *, is_whole: bool) -> Iterator[pa.RecordBatch]:
        """Extend what is published by the versions that were inserted and deleted since.

        What cannot be extended is computed from all records of the entity.
        """
        create_published_instants(run.connection, self)
        if not run.spans:
            self.create_spans_beside(run, is_whole=is_whole)
        table, columns = run.spans[self.name]
        spans = spans_of(self, table, columns)
        if is_whole:
            yield from self.whole(run, spans, columns)
            return
        yield from self.extend(run, spans, columns)
        if run.connection.execute("from incomplete limit 1").fetchall():
            yield from self.rebuild(run, "incomplete")

    def extend(self, run: Run, spans: str, columns: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        """Extend the published rows, in `activity`, by SQL of changed spans.

        In the end `incomplete` has the entities of which all records are needed.
        """
        is_incomplete = "is_retracted" if self.may_be_cut else "true"
        incomplete = f"select distinct entity_id from ({spans}) where {is_incomplete}"
        run.connection.execute(f"create or replace table incomplete as {incomplete}")
        if self.may_be_cut:
            of_others = "where entity_id not in (select entity_id from incomplete)"
            yield from self._extended(run, f"select * from ({spans}) {of_others}", columns)

    def whole(self, run: Run, spans: str, columns: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        """Compute all rows from SQL of all spans; `activity` has the published ones."""
        instants = self._instants(run, is_whole=True)
        made = self._timelines(run.connection, spans, instants, self.wanted(columns))
        yield from self._rows_of(run, made, is_whole=True)

    def again(self, run: Run, spans: str, columns: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        """Compute the rows that `activity` lacks or has with other values, from SQL of all spans.

        Entities of which nothing is published need not be in `activity`.
        """
        instants = self._instants(run, is_whole=False)
        made = self._timelines(run.connection, spans, instants, self.wanted(columns))
        yield from self._rows_of(run, made, is_whole=False)

    def in_stretch(
        self,
        run: Run,
        stretch: Stretch,
        spans: tuple[str, str],
        columns: Mapping[str, str],
        *,
        is_whole: bool,
    ) -> Iterator[pa.RecordBatch]:
        """Compute an entity's rows in a stretch of time, as `whole` or `again` does all.

        `spans` are those that change and the parts that are carried, of `timelines_of`.
        """
        instants = instants_us(self._instants(run, is_whole=is_whole))
        wanted = self.wanted(columns)
        made = (timelines_of(run.connection, item, *spans, instants, wanted) for item in (stretch,))
        yield from self._rows_of(run, made, is_whole=is_whole)

    def _instants(self, run: Run, *, is_whole: bool) -> str:
        """SQL of the instants in `activity`; `published` has the rows there, none if `is_whole`."""
        if is_whole:
            instants = "select distinct entity_id, event_timestamp from activity"
            run.connection.execute(f"create or replace table published as {instants} limit 0")
            return instants
        columns = ", ".join(map(quoted, self.stored.values()))
        run.connection.execute(
            f"""
            create or replace table published as
            select entity_id, event_timestamp, {columns} from activity
            qualify row_number() over (
                partition by entity_id, event_timestamp order by created_timestamp desc
            ) = 1
            """
        )
        return "select entity_id, event_timestamp from published"

    @property
    def may_be_cut(self) -> bool:
        """Whether an entity may be computed in stretches of time."""
        return {part.kind for part in self.parts} <= EXTENDED

    def create_spans_beside(self, run: Run, *, is_whole: bool) -> None:
        """Create the spans of all groups of a run.

        Nothing more is read for a group whose condition no version meets.
        """
        groups = [view for view in run.beside if isinstance(view, GroupView)] or [self]
        versions = ALL_VERSIONS if is_whole else None
        is_met = {
            where: counts_any(run.connection, where, versions)
            for where in {group.where for group in groups}
        }
        counting = [group for group in groups if is_met[group.where]]
        others = [group for group in groups if not is_met[group.where]]
        for table, of, read in (
            ("spans", counting, versions),
            ("no_spans", others, f"{ALL_VERSIONS} limit 0"),
        ):
            columns = create_spans(run.connection, read, of, table) if of else {}
            run.spans |= {group.name: (table, columns) for group in of}
        # what spans were made of would stay in memory until the views are published
        run.connection.execute("drop table if exists record_spans")
        run.connection.execute("drop table if exists changed_spans")

    def _extended(
        self, run: Run, spans: str, columns: Mapping[str, str]
    ) -> Iterator[pa.RecordBatch]:
        """Extend the rows of entities; add the entities for which this fails to `incomplete`."""
        first = (
            "select entity_id, make_timestamptz(min(starts_us)) as event_timestamp "
            f"from ({spans}) group by entity_id"
        )
        create_published(run.connection, first, list(self.stored.values()))
        parts = ", ".join(
            f"{quoted(column)} as p{i}" for i, column in enumerate(self.stored.values())
        )
        published = f"select entity_id, event_timestamp, {parts} from published"
        made = self._timelines(
            run.connection, spans, published, self.wanted(columns), is_extended=True
        )
        yield from self._rows_of(run, made, is_whole=False)

    def rebuild(self, run: Run, entities: str) -> Iterator[pa.RecordBatch]:
        """Compute entities from all versions of every record that ever counted for them."""
        is_among = f"entity_id in (select entity_id from {entities})"
        create_published_instants(run.connection, self, is_among)
        yield from self.again(run, *self.create_spans_of(run, entities))

    def create_spans_of(self, run: Run, entities: str) -> tuple[str, dict[str, str]]:
        """Create all spans of some entities; return SQL of them, and their columns by SQL."""
        columns = create_spans(
            run.connection, versions_of(self, entities), (self,), "rebuilt_spans"
        )
        spans = spans_of(self, "rebuilt_spans", columns)
        is_among = f"entity_id in (select entity_id from {entities})"
        return f"select * from ({spans}) where {is_among}", columns

    def wanted(self, columns: Mapping[str, str]) -> list[Wanted]:
        """List the parts to compute, in the order in which they are stored, from spans' columns."""
        of = {part: columns[part.input] if part.input else None for part in self.parts}
        on = {part: columns[bound(part.where)] if part.where else None for part in self.parts}
        return [
            Wanted(f"p{i}", part, window, of[part], on[part])
            for i, (part, window) in enumerate(self.stored)
        ]

    def _rows_of(
        self, run: Run, made: Iterator[Timelines], *, is_whole: bool
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows of timelines; add the entities that they lack to `incomplete`.

        Unless `is_whole`, these are only the rows that `published` lacks or has with other values.
        """
        try:
            for item in made:
                if item.incomplete.len():
                    run.connection.register("further", item.incomplete.to_frame().to_arrow())
                    run.connection.execute("insert into incomplete from further")
                for rows in item.slices():
                    yield from self._batches(run, rows, is_whole=is_whole)
        except OverflowError as error:
            raise self._too_large(str(error)) from None

    def _timelines(
        self,
        connection: duckdb.DuckDBPyConnection,
        spans: str,
        published: str,
        wanted: Sequence[Wanted],
        *,
        is_extended: bool = False,
    ) -> Iterator[Timelines]:
        """Compute parts bucket by bucket, and those of an entity with many records by stretches.

        With `is_extended`, `published` has the parts beside the instants.
        """
        published = instants_us(published)
        n_whole, n_buckets, bucket_of = _buckets(connection, spans)
        may_be_cut = self.may_be_cut and not is_extended
        for bucket in range(n_buckets):
            found, before = (
                f"select * from ({sql}) where {bucket_of} = {bucket}" for sql in (spans, published)
            )
            if bucket >= n_whole and may_be_cut:
                yield from timelines_by_stretch(connection, self, found, before, wanted)
            else:
                yield timelines(connection.sql(found).pl(), wanted, connection.sql(before).pl())

    def _too_large(self, part: str) -> GateError:
        """Name the feature whose sum does not fit."""
        of_part = list(self.stored)[int(part.removeprefix("p"))]
        name = next(
            item.name
            for item in self.made
            if any((each, item.window) == of_part for each in item.parts.values())
        )
        message = (
            f"{self.relation}: {name}: a sum passes 2 ** 62 units; "
            "declare coarser units with decimals=, or leave out large numbers with where="
        )
        return GateError(message)

    def _batches(self, run: Run, rows: pl.DataFrame, *, is_whole: bool) -> Iterator[pa.RecordBatch]:
        run.connection.register("running", rows.to_arrow())
        names = {key: f"p{i}" for i, key in enumerate(self.stored)}
        features = [
            feature.value.format(
                **{name: names[part, feature.window] for name, part in feature.parts.items()}
            )
            + f" as {quoted(feature.name)}"
            for feature in self.made
        ]
        served = {feature.name for feature in self.made}
        features += [
            f"{names[key]} as {quoted(column)}"
            for key, column in self.stored.items()
            if column not in served
        ]
        sql = (
            "select entity_id, make_timestamptz(instant_us) as event_timestamp, "
            f"{', '.join(features)}, true as is_new from running"
        )
        if not is_whole:
            # values are computed from what is stored, so they differ only where that does
            differs = " or ".join(
                f"computed.{column} is distinct from published.{column}"
                for column in map(quoted, self.stored.values())
            )
            sql = f"""
                select computed.* replace (published.entity_id is null as is_new)
                from ({sql}) as computed
                left join published
                    on computed.entity_id = published.entity_id
                    and computed.event_timestamp = published.event_timestamp
                where published.entity_id is null or {differs}
            """
        sql = f"select {self.entity.columns_of_id}, * exclude (entity_id) from ({sql})"
        made = read_few(run.connection, sql) if rows.height < FEW_ROWS else run.connection.sql(sql)
        for batch in made.to_arrow_reader(run.batch_rows):
            created = pa.repeat(pa.scalar(run.now, pa.timestamp("us", "UTC")), batch.num_rows)
            yield from view_batches(
                self.contract, pa.table(batch).append_column("created_timestamp", created)
            )

    def instants(self, run: Run) -> str:
        """SQL of the instants at which versions start to count, leave windows or are superseded."""
        columns = create_spans(run.connection, ALL_VERSIONS, (self,), "spans")
        return change_points(self, spans_of(self, "spans", columns))

    def count_resting(
        self, connection: duckdb.DuckDBPyConnection, source_uri: str
    ) -> dict[str, int]:
        """Count the rows at whose instants a version of the file counts, in the longest window."""
        connection.execute("set variable traced = $uri", {"uri": source_uri})
        create_named_versions(connection, self)
        longest = max(self.windows, key=lambda window: (window.length is None, window.length_us))
        # least() ignores nulls
        until = f"least(superseded_timestamp, make_timestamptz({longest.leaves_us}))"
        ids = "unnest(entity_ids)" if self.entity.many else "entity_ids"
        spans = (
            f"select {ids} as entity_id, counts_from, {until} as until "
            f"from ({model('lineage/entity_spans')})"
        )
        connection.execute(
            "create or replace table entity_spans as "
            f"select * from ({spans}) where entity_id is not null"
        )
        rows = (
            f"select distinct {self.entity.id_of_columns} as entity_id, event_timestamp "
            f"from {self.relation}"
        )
        connection.execute(
            "create or replace view entity_rows as "
            f"select * from ({rows}) semi join entity_spans using (entity_id)"
        )
        (counts,) = connection.sql(model("lineage/resting_rows")).pl().to_dicts()
        return dict(counts)

    def explain(
        self,
        connection: duckdb.DuckDBPyConnection,
        entity: Mapping[str, str],
        at: datetime,
        limit: int,
        feature: str | None = None,
    ) -> Explained:
        """Aggregate the records that count at the instant, by the parts' definitions.

        The newest version of each record that was known before the instant counts.
        """
        columns = explained_records(connection, self, entity, at, self._numbers.values())
        values = [
            f"{self._defined(feature, columns)} as {quoted(feature.name)}" for feature in self.made
        ]
        (found,) = connection.sql(f"select {', '.join(values)} from explained").pl().to_dicts()
        numbers = "".join(
            f", {columns[sql]}::double as {quoted(expression)}"
            for expression, sql in self._numbers.items()
        )
        is_behind = self._is_behind(feature, columns)
        shown = f"select {', '.join(SHOWN)}{numbers} from explained where {is_behind}"
        records = f"{shown} order by known_timestamp desc, record_id limit $limit"
        listed = connection.sql(records, params={"limit": limit}).pl().to_dicts()
        behind = [
            {
                **{name: row[name] for name in SHOWN},
                "inputs": {name: row[name] for name in self._numbers},
            }
            for row in listed
        ]
        ((n_records,),) = connection.sql(
            f"select count(*) from explained where {is_behind}"
        ).fetchall()
        return Explained(found, behind, n_records)

    @cached_property
    def _numbers(self) -> dict[str, str]:
        """SQL of the numbers that are read of a record, by their declared expressions."""
        numbers = {}
        for item in self._declaration.aggregates:
            of = None if isinstance(item, Count) else self._inputs.bind(item.of)
            if of and of.kind in {"whole", "fraction"}:
                conditions = [bound(where) for where in (self.where, item.where) if where]
                numbers[item.of] = (
                    f"case when {' and '.join(conditions)} then {of.sql} end"
                    if conditions
                    else of.sql
                )
        return numbers

    def _is_behind(self, feature: str | None, columns: Mapping[str, str]) -> str:
        """SQL of whether a record in `explained` counts for a feature; without one, for any."""
        made = next((item for item in self.made if item.name == feature), None)
        if made is None:
            return "len(windows) > 0"
        conditions = {columns[bound(part.where)] for part in made.parts.values() if part.where}
        return " and ".join([is_in(made.window), *sorted(conditions)])

    def _defined(self, feature: Feature, columns: Mapping[str, str]) -> str:
        parts = {}
        for name, part in feature.parts.items():
            where = is_in(feature.window) + (
                f" and {columns[bound(part.where)]}" if part.where else ""
            )
            parts[name] = part.over(columns[part.input] if part.input else "true", where)
        return feature.value.format(**parts)


def _buckets(connection: duckdb.DuckDBPyConnection, spans: str) -> tuple[int, int, str]:
    """Divide entities into buckets of about `SPANS_OF_A_BUCKET` spans and rows of `published`.

    Returns the number of buckets of at most about that size, that of all buckets, which the others
    come at the end of, and SQL of an entity's. An entity with half as many or more has a bucket of
    its own: of few entities, a hash alone may put all the large ones into one.
    """
    place = "hash(entity_id)"
    rows = f"select {place} as place from ({spans}) union all select {place} from published"
    ((n_rows,),) = connection.execute(f"select count(*) from ({rows})").fetchall()
    if n_rows < SPANS_OF_A_BUCKET:
        return 1, 1, "0"
    heavy = connection.sql(
        f"select place, count(*) as n from ({rows}) group by place "
        f"having n >= {SPANS_OF_A_BUCKET // 2} order by n, place"
    ).fetchall()
    n_light = 1 + (n_rows - sum(n for _, n in heavy)) // SPANS_OF_A_BUCKET
    light = f"{place} % {n_light}"
    if not heavy:
        return n_light, n_light, light
    own = " ".join(f"when {of} then {n_light + i}" for i, (of, _) in enumerate(heavy))
    n_whole = n_light + sum(n <= SPANS_OF_A_BUCKET for _, n in heavy)
    return n_whole, n_light + len(heavy), f"case {place} {own} else {light} end"


def instants_us(published: str) -> str:
    """SQL of published rows with their instants in microseconds since 1970."""
    instant = "epoch_us(event_timestamp) as instant_us"
    return f"select * exclude (event_timestamp), {instant} from ({published})"


def create_published_instants(
    connection: duckdb.DuckDBPyConnection, view: View, of: str = "true"
) -> None:
    """Create `activity` from the published rows of a view, by `entity_id`.

    With `of`, SQL of a condition, these are only some. It is empty if they were published of an
    entity with other keys.
    """

    def create(published: str) -> None:
        rows = f"select *, {view.entity.id_of_columns} as entity_id from {published}"
        connection.execute(f"create or replace view activity as select * from ({rows}) where {of}")

    try:
        create(view.relation)
    except duckdb.BinderException:  # other keys
        connection.register("nothing_published", view.contract.arrow_schema().empty_table())
        create("nothing_published")
