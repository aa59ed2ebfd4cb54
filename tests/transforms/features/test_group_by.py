"""Groups: every value equals the definition in plain Python, for any declaration and history."""

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transforms.features.reference import (
    Aggregated,
    Expression,
    Group,
    Span,
    Version,
    instants_of,
)
from tests.transforms.features.strategies import (
    ENTITIES,
    EXTENDED,
    HOUR,
    START,
    Drawn,
    RecordShape,
    groups,
    histories,
)
from transforms.errors import DeclarationError, GateError
from transforms.features import Count, Entity, GroupBy, LastK, Max, Mean, Sum, TopK, hours, lifetime
from transforms.features.build import compute_views
from transforms.features.engine import group_by, intervals, stretches
from transforms.features.engine.group_by import GroupView
from transforms.features.engine.record import KernelView
from transforms.features.entities import author, subject
from transforms.features.joined import EFFECTIVE
from transforms.features.registry import view_of
from transforms.features.view import Run, View
from transforms.schemas.staging import StagedRecord
from transforms.warehouse import publishing
from transforms.warehouse.tables import Rows, Warehouse

NOW = datetime(2026, 6, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SHAPE = KernelView(RecordShape, {})


def staged(versions: Sequence[Version]) -> pa.Table:
    """Versions as rows of staging."""
    rows = [
        {
            "record_id": v.record,
            "author_id": v.author,
            "subject_id": v.subject,
            "event_timestamp": v.event,
            "known_timestamp": v.known,
            "text": v.text,
            "text_redacted": v.text,
            "label": v.label,
            "is_positive": v.label == "urgent",
            "is_tombstone": v.text is None,
            "attributes": v.attributes,
            "content_digest": repr(v),
            "source": "notes",
            "load_id": "load",
            "source_uri": "file",
            "row_number": number,
            "loaded_timestamp": v.known,
        }
        for number, v in enumerate(versions, 1)
    ]
    schema = StagedRecord.arrow_schema()
    integers = pa.schema(
        [
            (field.name, pa.int64() if pa.types.is_timestamp(field.type) else field.type)
            for field in schema
        ]
    )
    return pa.Table.from_pylist(rows, integers).cast(schema)


class Bench:
    """Views over a DuckDB connection without files: the staged versions and the views' rows."""

    def __init__(self, warehouse: Warehouse, views: Sequence[View]) -> None:
        self.warehouse, self.views, self.n_runs = warehouse, views, 0
        self.staged: list[Version] = []
        self.connection = duckdb.connect(config={"threads": 1})
        self.connection.execute("set timezone = 'UTC'")
        self.connection.execute("create schema staging; create schema features")
        for view in views:
            self._create(view.relation, view.contract.arrow_schema().empty_table())

    def _create(self, relation: str, table: pa.Table) -> None:
        self.connection.register("given_rows", table)
        self.connection.execute(f"create or replace table {relation} as from given_rows")
        self.connection.unregister("given_rows")

    def take(self, versions: Sequence[Version]) -> dict[str, int]:
        """Replace the staged versions and update the views; return how many rows each published."""
        self._create("staging.records", staged(versions))
        self._create("inserted", staged([v for v in versions if v not in self.staged]))
        self._create("deleted", staged([v for v in self.staged if v not in versions]))
        self.staged, self.n_runs = list(versions), self.n_runs + 1
        of_records = [[view] for view in self.views if view.is_of_records]
        others = [view for view in self.views if not view.is_of_records]
        n_rows = {}
        for beside in (*of_records, others):
            run = self.run(beside)
            for view in beside:
                n_rows[view.name] = self.publish(view, view.rows(run, is_whole=self.n_runs == 1))
        return n_rows

    def run(self, beside: Sequence[View]) -> Run:
        return Run(
            self.warehouse, self.connection, NOW + timedelta(hours=self.n_runs), tuple(beside)
        )

    def publish(self, view: View, batches: Iterator[pa.RecordBatch]) -> int:
        """Append rows to a view."""
        made = [batch.select(view.contract.arrow_schema().names) for batch in batches]
        for batch in made:
            self.connection.register("given_rows", batch)
            self.connection.execute(f"insert into {view.relation} from given_rows")
        return sum(batch.num_rows for batch in made)

    def rows(self, view: View) -> pl.DataFrame:
        return self.connection.sql(f"from {view.relation}").pl()

    def close(self) -> None:
        self.connection.close()


def newest(view: View, rows: pl.DataFrame) -> pl.DataFrame:
    """The newest row of each entity and instant, in order, without `created_timestamp`."""
    key = [*view.entity.columns, "event_timestamp"]
    last = (
        rows.sort("created_timestamp").unique(key, keep="last").sort(key).drop("created_timestamp")
    )
    return last.with_columns(pl.col(pl.Datetime).dt.timestamp("us"))


def by_entity(view: View, rows: pl.DataFrame) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    grouped = newest(view, rows).group_by(view.entity.columns, maintain_order=True)
    return {tuple(map(str, key)): group.to_dicts() for key, group in grouped}


def entities_of(group: Group, versions: Sequence[Version]) -> list[tuple[str | None, ...]]:
    return sorted({entity for v in versions for entity in group.entities_of(v)}, key=repr)


def assert_as_defined(
    view: View,
    group: Group,
    rows: pl.DataFrame,
    versions: Sequence[Version],
    seen: Sequence[Version],
) -> None:
    """Check every feature of every entity at all instants of change; `seen` adds more of both."""
    spans = {span for aggregate in group.aggregates for span in aggregate.features.values()}
    instants = instants_of([*versions, *seen], spans)
    found = by_entity(view, rows)
    entities = entities_of(group, [*versions, *seen])
    assert set(found) <= set(entities)
    for entity in entities:
        mine = found.get(entity, [])
        at = [row["event_timestamp"] for row in mine]
        for instant in instants:
            place = bisect_right(at, instant)
            expected = group.values(versions, entity, instant)
            # no row yet says the same as a row over no record
            actual = (
                {name: mine[place - 1][name] for name in expected}
                if place
                else group.values([], entity, instant)
            )
            assert repr(actual) == repr(expected), (view.name, entity, instant - START, place)


@pytest.fixture
def bench(warehouse: Warehouse) -> Iterator[Any]:
    opened: list[Bench] = []

    def run(*drawn: Drawn) -> Bench:
        for other in opened:
            other.close()
        views = [GroupView(one.declared, {"record_shape": SHAPE}) for one in drawn]
        opened[:] = [Bench(warehouse, [SHAPE, *views])]
        return opened[0]

    yield run
    for other in opened:
        other.close()


def assert_explained(
    home: "Bench", view: View, group: Group, instants: Iterable[int], seen: Sequence[Version]
) -> None:
    """Compare the definition in SQL, which traces use, with the one in Python."""
    for entity, instant in itertools.product(entities_of(group, seen), instants):
        found = view.explain(
            home.connection,
            dict(zip(view.entity.columns, entity, strict=True)),
            EPOCH + instant * MICROSECOND,
            1,
        )
        values = {
            name: (x - EPOCH) // MICROSECOND if isinstance(x, datetime) else x
            for name, x in found.values.items()
        }
        assert repr(values) == repr(group.values(home.staged, entity, instant)), (
            view.name,
            entity,
            instant - START,
        )


@settings(max_examples=25)
@given(st.data(), histories())
def test_every_value_is_as_defined_after_each_increment(
    bench: Any, data: st.DataObject, states: list[list[Version]]
) -> None:
    drawn = data.draw(groups("one") | groups("one", EXTENDED)), data.draw(groups("two", EXTENDED))
    home = bench(*drawn)
    seen: list[Version] = []
    for state in states:
        home.take(state)
        seen += state
        for view, one in zip(home.views[1:], drawn, strict=True):
            assert_as_defined(view, one.meaning, home.rows(view), state, seen)
    instants = data.draw(
        st.lists(st.sampled_from(sorted({v.effective + 1 for v in seen})), max_size=1)
    )
    for view, one in zip(home.views[1:], drawn, strict=True):
        assert_explained(home, view, one.meaning, instants, seen)
    for view in home.views[1:]:
        view.contract.gate(home.rows(view))
        ids = f"select distinct {view.entity.id_of_columns} as entity_id from {view.relation}"
        # a version that never counts may have another key now: an instant that changes no value
        assert all(
            batch.column("is_new").false_count == 0
            for batch in view.rebuild(home.run([view]), f"({ids})")
        )


@settings(max_examples=10)
@given(groups(kinds=EXTENDED) | groups(), histories(max_steps=2))
def test_increments_in_order_of_knowledge_have_the_rows_of_a_rebuild(
    bench: Any, drawn: Drawn, states: list[list[Version]]
) -> None:
    in_order = sorted(states[-1], key=lambda v: v.known)
    cuts = [*{v.known for v in in_order[len(in_order) // 3 :: 2]}, math.inf]
    rows = []
    for bounds in (cuts, [math.inf]):
        home = bench(drawn)
        for until in sorted(bounds):
            home.take([v for v in in_order if v.known < until])
        rows.append(newest(home.views[1], home.rows(home.views[1])))
    assert rows[0].equals(rows[1])


@settings(max_examples=10)
@given(groups(kinds=EXTENDED), histories(max_steps=2))
def test_entity_cut_into_stretches_of_time_has_the_rows_of_one_that_is_not(
    bench: Any, drawn: Drawn, states: list[list[Version]]
) -> None:
    rows = []
    for n_spans, n_points in ((500_000, 2_000_000), (2, 3)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(group_by, "SPANS_OF_A_BUCKET", n_spans)
            patch.setattr(stretches, "POINTS_OF_A_STRETCH", n_points)
            home = bench(drawn)
            view = home.views[1]
            for state in states:
                home.take(state)
            rows.append(newest(view, home.rows(view)))
            ids = f"select distinct {view.entity.id_of_columns} as entity_id from {view.relation}"
            again = list(view.rebuild(home.run([view]), f"({ids})"))
            assert all(batch.column("is_new").false_count == 0 for batch in again)
    assert rows[0].equals(rows[1])


def test_entity_of_which_nothing_counts_any_more_is_cut_into_stretches(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_by, "SPANS_OF_A_BUCKET", 2)
    monkeypatch.setattr(stretches, "POINTS_OF_A_STRETCH", 3)
    drawn = GroupBy(
        "drawn", author, [Count(of="label")], windows=[hours(1), hours(2)], description="Drawn."
    )
    view = GroupView(drawn, {"record_shape": SHAPE})
    home = Bench(warehouse, [SHAPE, view])
    taken_out = Version("r1", "u1", "s1", START, START + 1, None, "urgent", None)  # it has no text
    there = taken_out._replace(event=START + HOUR, known=START + HOUR, text="a")
    home.take([taken_out, there])
    home.take([taken_out])
    rows = newest(view, home.rows(view))
    assert rows[view.features[0]].to_list() == [0] * rows.height != []
    home.close()


def publish(
    warehouse: Warehouse, views: Sequence[View], versions: Sequence[Version], number: int
) -> dict[str, Rows]:
    """Replace the staged versions, in new files, and update the views."""
    publishing.publish(
        warehouse,
        StagedRecord,
        staged(versions).to_batches(),
        {},
        without=warehouse.files(StagedRecord.relation()),
    )
    return compute_views(views, warehouse, NOW + timedelta(hours=number))


@settings(max_examples=3)
@given(groups("one", EXTENDED), groups("two"), histories(max_steps=3))
def test_homes_have_the_values_of_the_definition(
    new_home: Callable[[], Warehouse], one: Drawn, two: Drawn, states: list[list[Version]]
) -> None:
    views = [SHAPE, *(GroupView(drawn.declared, {"record_shape": SHAPE}) for drawn in (one, two))]
    grown, rebuilt = new_home(), new_home()
    for number, state in enumerate(states):
        publish(grown, views, state, number)
    assert {
        (rows.new, rows.recomputed)
        for rows in publish(grown, views, states[-1], len(states)).values()
    } == {(0, 0)}
    publish(rebuilt, views, states[-1], 0)
    seen = [version for state in states for version in state]
    for home, (view, drawn) in itertools.product(
        (grown, rebuilt), zip(views[1:], (one, two), strict=True)
    ):
        rows = pl.read_delta(str(home.folder(view.relation)))
        assert_as_defined(view, drawn.meaning, rows, states[-1], seen if home is grown else [])


def test_group_may_not_read_what_changes_as_other_records_come() -> None:
    declared = GroupBy(
        "copies", author, [Sum("record_duplicates.is_duplicate", "n_copies", windows=lifetime)]
    )
    with pytest.raises(
        DeclarationError,
        match=r"reads record_duplicates\.is_duplicate, which changes as other records come",
    ):
        GroupView(declared, {"record_duplicates": view_of("record_duplicates")})


@pytest.mark.parametrize("aggregate", [LastK, TopK])
def test_list_of_numbers_that_have_bounds_meets_its_contract(bench: Any, aggregate: Any) -> None:
    declared = GroupBy(
        "one", author, [aggregate("record_shape.n_letters", "lengths", k=2, windows=lifetime)]
    )
    home = bench(Drawn(declared, Group(list, None, [])))
    home.take([Version("r", "u", None, START, START, "one word", None, None)])
    view = home.views[1]
    assert view.contract.gate(home.rows(view))["lengths"].to_list() == [[8]]


def test_entity_that_a_record_view_named_before_is_computed_again(bench: Any) -> None:
    """Two versions take effect at one instant; the newer one's features name another entity."""
    entity, entities = next(item for item in ENTITIES if item[0].name == "first_word")
    counted = Aggregated("Count", {"n": Span(*lifetime)}, Expression("n", lambda _: 1, "whole"))
    drawn = Drawn(
        GroupBy("one", entity, [Count("n", windows=lifetime)]), Group(entities, None, [counted])
    )
    older = Version("r", "u", None, START + 2 * HOUR, START, "one word", None, None)
    states = [[older], [older, older._replace(known=START + HOUR, text="another word")]]
    home = bench(drawn)
    for state in states:
        home.take(state)
        assert_as_defined(home.views[1], drawn.meaning, home.rows(home.views[1]), state, states[1])


def test_two_windows_of_one_name_are_distinguished(bench: Any) -> None:
    """One ends a record's six hours at once, the other at a quarter of the day."""
    windows = {"exact": hours(6), "by_quarters": hours(6, hop=timedelta(hours=6))}
    home = bench(
        Drawn(
            GroupBy(
                "one", author, [Count(name, windows=[window]) for name, window in windows.items()]
            ),
            Group(list, None, []),
        )
    )
    home.take([Version("r", "u", None, START + HOUR, START + HOUR, "text", None, None)])
    found = home.views[1].explain(
        home.connection, {"author_id": "u"}, EPOCH + (START + 8 * HOUR) * MICROSECOND, 1
    )
    assert found.values == {"exact_6h": 0, "by_quarters_6h": 1}
    assert home.rows(home.views[1]).sort("event_timestamp").tail(2).select(
        *found.values
    ).rows() == [(0, 1), (0, 0)]


def test_view_may_become_one_of_another_entity(warehouse: Warehouse) -> None:
    versions = [Version("r", "u", "s", START, START, "text", None, None)]
    for number, of in enumerate((author, subject)):
        view = GroupView(GroupBy("one", of, [Count("n")], [lifetime], description="Records."), {})
        publish(warehouse, [view], versions, number)
        assert by_entity(view, pl.read_delta(str(warehouse.folder(view.relation)))) == {
            (versions[0][1 + number],): [
                {
                    of.columns[0]: versions[0][1 + number],
                    "event_timestamp": START + 1,
                    "n_lifetime": 1,
                }
            ]
        }


def test_sum_that_does_not_fit_stops_the_run_with_its_name(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = GroupBy("one", author, [Count("n"), Mean("length(text)", "size")], [lifetime])
    home = bench(Drawn(declared, Group(list, None, [])))
    monkeypatch.setattr(intervals, "MAX_SUM", 10)
    home.take([Version("r", "u", None, START, START, "text", None, None)])
    with pytest.raises(GateError, match=r"features\.one: size_lifetime: a sum passes"):
        home.take([*home.staged, Version("s", "u", None, START, START, "longer", None, None)])


def test_inputs_of_a_record_are_read_only_where_its_condition_is_met(
    bench: Any,
) -> None:
    """A cast that is valid for the records that count must not fail on those that do not."""
    price = "(attributes->>'price')::bigint"
    declared = GroupBy(
        "prices",
        Entity("priced", key=f"{price}::varchar"),
        [Sum(price, "total"), Max(price, "highest", where="text = 'b'")],
        [lifetime],
        where="label = 'urgent'",
    )
    view = GroupView(declared, {})
    home = Bench(bench().warehouse, [SHAPE, view])
    versions = [
        Version("r1", "u1", "s1", START, START, "a", "urgent", '{"price": 3}'),
        Version("r2", "u1", "s1", START, START, "a", "calm", '{"price": "three"}'),
        Version("r3", "u1", "s1", START, START, "a", "urgent", '{"price": 5}'),
    ]
    home.take(versions[:1])
    home.take(versions)  # some new versions meet the condition, some do not
    totals = {
        key: rows[-1]["total_lifetime"] for key, rows in by_entity(view, home.rows(view)).items()
    }
    assert totals == {("3",): 3, ("5",): 5}
    # as an erasure looks for them
    found = home.connection.sql(view.entities_of(EFFECTIVE)).fetchall()
    assert sorted(found) == [("3",), ("5",)]
    assert view.count_resting(home.connection, "file") == {"n_rows": 2, "n_entities": 2}
    home.take(versions[1:])  # which recomputes an entity from all records
    assert by_entity(view, home.rows(view))[("3",)][-1]["total_lifetime"] == 0
    assert (
        view.explain(
            home.connection, {"priced": "3"}, EPOCH + (START + 10) * MICROSECOND, 5
        ).values["total_lifetime"]
        == 0
    )
    home.close()
