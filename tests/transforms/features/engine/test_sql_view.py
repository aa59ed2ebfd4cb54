"""A user's SQL views: inputs, refusals, increments equal to a rebuild, nothing of the future."""

from collections.abc import Callable, Sequence
from copy import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.transforms.histories import (
    HISTORIES,
    HOUR,
    NOW,
    START,
    Version,
    by_entity,
    cut,
    instants_of,
    newest,
    row_at,
    rows_of,
    run,
    stage,
    version,
)
from transforms.errors import DeclarationError, GateError
from transforms.features import Entity, SqlView
from transforms.features.backfill import Span, fill
from transforms.features.build import Rows, featurize, is_made_by_other_code, recompute, stale_views
from transforms.features.engine import leakage
from transforms.features.engine.queries import read_relations
from transforms.features.engine.sql_view import QueryView
from transforms.features.entities import author, record
from transforms.features.registry import view_of
from transforms.features.view import Run
from transforms.warehouse.snapshot import connect, create_view
from transforms.warehouse.tables import Warehouse

NewHome = Callable[[], Warehouse]
Only = Callable[..., None]
COUNT = """
with changes as (
    select author_id, effective_from as event_timestamp, 1 as change, length(text) as n_characters
    from versions
    union all
    select author_id, effective_until, -1, -length(text) from versions
    where effective_until is not null
)
select
    author_id,
    event_timestamp,
    sum(sum(change)) over past as n_records,
    sum(sum(n_characters)) over past / 7 as sevenths
from changes group by author_id, event_timestamp
window past as (partition by author_id order by event_timestamp)
"""
LAST = """
select
    author_id,
    instant as event_timestamp,
    arg_max(label, (effective_from, record_id)) as last_label,
    list(record_id order by effective_from, record_id) as records
from (select distinct author_id, effective_from as instant from versions) as instants
join versions using (author_id) where effective_from <= instant group by author_id, instant
"""
FIRST_OF_TEXT = """
select author_id, event_timestamp, count(*) as n_first from (
    select author_id, effective_from as event_timestamp from versions
    qualify row_number() over (partition by text order by effective_from, record_id) = 1
) group by all
"""
HONEST_VIEWS = [COUNT, LAST, FIRST_OF_TEXT]


def query_view(
    sql: str, entity: Entity = author, name: str = "own", folder: Path = Path(), **views: Any
) -> QueryView:
    return QueryView(SqlView(name, entity, sql), views, folder)


def of_record(expression: str) -> str:
    return f"select record_id, effective_from as event_timestamp, {expression} as x from versions"


def computed(warehouse: Warehouse, view: QueryView) -> list[dict[str, Any]]:
    """What a whole run would publish."""
    with connect(warehouse) as connection:
        batches = list(view.rows(Run(warehouse, connection, NOW), is_whole=True))
    return [row for batch in batches for row in batch.to_pylist()]


def staged(new_home: NewHome, versions: Sequence[Version]) -> Warehouse:
    warehouse = new_home()
    stage(warehouse, versions)
    return warehouse


# --- (1) what a query reads ---


def effective(versions: Sequence[Version]) -> set[tuple[str, int, int | None]]:
    """The versions that take effect, from when until when, in plain Python."""
    found = set()
    for one in versions:
        later = min(
            (
                other.known
                for other in versions
                if other.record == one.record and other.known > one.known
            ),
            default=None,
        )
        until = None if later is None else later + 1
        if one.text is not None and (until is None or until > one.effective + 1):
            found.add((one.record, one.effective + 1, until))
    return found


@settings(max_examples=10)
@given(HISTORIES)
@example([version("r", known=0, event=2 * HOUR), version("r", known=HOUR)])
def test_versions_are_in_effect_from_when_until_when(
    new_home: NewHome, versions: list[Version]
) -> None:
    warehouse = staged(new_home, versions)
    assert {
        (row["record_id"], row["x"])
        for row in computed(warehouse, query_view(of_record("epoch_us(effective_from)"), record))
    } == {(name, starts) for name, starts, _ in effective(versions)}
    ends = (
        of_record("epoch_us(effective_until)").replace("effective_from", "effective_until")
        + " where effective_until is not null"
    )
    assert {
        (row["record_id"], row["x"]) for row in computed(warehouse, query_view(ends, record))
    } == {(name, until) for name, _, until in effective(versions) if until is not None}


def test_record_views_have_the_newest_row_of_each_version(new_home: NewHome, only: Only) -> None:
    quality = view_of("record_quality")
    sql = """
        select
            author_id,
            effective_from as event_timestamp,
            sum(n_words) over (partition by author_id order by effective_from) as n_words
        from versions join record_quality using (record_id, effective_from)
    """
    view = query_view(sql, record_quality=quality)
    assert view.reads == ("record_quality",)
    only(quality, view)
    warehouse = run(new_home(), [version("r1", 0), version("r2", HOUR, text="now three words")])
    assert [row["n_words"] for row in by_entity(warehouse, "own")["u"]] == [2, 5]


def test_an_entity_has_several_keys_and_rows_without_one_are_left_out(
    new_home: NewHome, only: Only
) -> None:
    pair = Entity("author_in_subject", key=["subject_id", "author_id"])
    sql = (
        "select nullif(subject_id, 't') as subject_id, author_id, effective_from as "
        "event_timestamp, text from versions"
    )
    view = query_view(sql, pair)
    only(view)
    other = version("r2", HOUR)._replace(subject="t")
    warehouse = run(new_home(), [version("r1", 0), other])
    assert rows_of(warehouse, "own").select("subject_id", "author_id", "text").rows() == [
        ("s", "u", "two words")
    ]


def test_types_are_those_of_other_features(new_home: NewHome) -> None:
    values = (
        "1::hugeint as whole, true as flag, 0.5::decimal(9, 2) as fraction, 'nan'::double as "
        "nothing, ['a'] as words, [0.5] as fractions"
    )
    sql = (
        f"select record_id, effective_from as event_timestamp, {values}, [1::tinyint] as wholes, "
        "event_timestamp as instant from versions"
    )
    (row,) = computed(staged(new_home, [version("r", 1)]), query_view(sql, record))
    assert row["instant"] == datetime(2026, 1, 1, tzinfo=UTC), "instants are served to the second"
    assert {
        name: row[name]
        for name in ("whole", "flag", "fraction", "nothing", "words", "fractions", "wholes")
    } == {
        "whole": 1,
        "flag": 1,
        "fraction": 0.5,
        "nothing": None,
        "words": ["a"],
        "fractions": [0.5],
        "wholes": [1],
    }


# --- (2) no row rests on what takes effect after it ---

PAST = "over (partition by author_id order by effective_from, record_id rows between {} and {})"
FRAMES = st.tuples(st.integers(0, 3), st.integers(0, 2)).map(
    lambda ends: (f"{ends[0] + ends[1]} preceding", f"{ends[1]} preceding")
)
VALUES = st.sampled_from(
    [
        "count(*)",
        "sum(length(text))",
        "avg(length(text) / 3)",
        "max(label)",
        "count(distinct text)",
        "first_value(text)",
    ]
)
HONEST = st.one_of(
    st.builds(lambda value, ends: f"{value} {PAST.format(*ends)}", VALUES, FRAMES),
    st.sampled_from(
        [
            "lag(label) over (partition by author_id order by effective_from, record_id)",
            "case when effective_until <= effective_from then 1 else 0 end",
            "rank() over (order by effective_from)",
            (
                "(select count(*) from versions as other "
                "where other.effective_from < versions.effective_from)"
            ),
            (
                "(select count(*) from versions as other "
                "where other.effective_until <= versions.effective_from)"
            ),
            "length(text) / 3.0",
        ]
    ),
)
LEAKING = st.one_of(
    st.builds(
        lambda n: f"count(*) {PAST.format('unbounded preceding', f'{n} following')}",
        st.integers(1, 3),
    ),
    st.builds(
        lambda n: f"sum(length(text)) {PAST.format('current row', f'{n} following')}",
        st.integers(1, 3),
    ),
    st.sampled_from(
        [
            "count(*) over ()",
            "count(*) over (partition by author_id)",
            "lead(record_id) over (partition by author_id order by effective_from, record_id)",
            "max(effective_from) over (partition by author_id)",
            "rank() over (order by effective_from desc)",
            "effective_until",
            "effective_until is null",
            "(select count(*) from versions as other where other.record_id = versions.record_id)",
            "(select max(known_timestamp) from versions)",
            (
                "(select count(*) from versions as other "
                "where other.effective_from > versions.effective_from)"
            ),
            "(select count(*) from versions as other where other.effective_until is null)",
        ]
    ),
)


@settings(max_examples=20)
@given(HISTORIES, HONEST)
def test_an_honest_query_passes(
    new_home: NewHome, versions: list[Version], expression: str
) -> None:
    rows = computed(staged(new_home, versions), query_view(of_record(expression), record))
    assert len(rows) == len(effective(versions))


@settings(max_examples=25)
@given(HISTORIES.filter(effective), LEAKING)
def test_a_leaking_query_is_stopped(
    new_home: NewHome, versions: list[Version], expression: str
) -> None:
    warehouse = staged(new_home, versions)
    with pytest.raises(
        GateError,
        match=(
            r"features\.own: \d+ rows up to .* differ when what took effect later "
            r".*effective_from"
        ),
    ):
        computed(warehouse, query_view(of_record(expression), record))


def test_that_a_record_will_come_is_a_leak_which_only_deletion_shows(new_home: NewHome) -> None:
    will_come = of_record(
        "(select count(distinct other.record_id) from versions as other "
        "where other.record_id = 'r2')"
    )
    with pytest.raises(GateError, match="when what took effect later is deleted"):
        computed(
            staged(new_home, [version("r1", 0), version("r2", HOUR)]), query_view(will_come, record)
        )


def test_of_many_versions_leaks_are_found_in_a_sample_of_entities(
    new_home: NewHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leakage, "TESTED_VERSIONS", 50)
    warehouse = staged(
        new_home, [version(f"r{n}", n * HOUR, author=f"u{n % 40}") for n in range(400)]
    )
    assert len(computed(warehouse, query_view(COUNT))) == 400
    with connect(warehouse) as connection:
        tested = leakage._take_sample(connection, author, read_relations({}))
        ((n_versions, n_authors),) = connection.sql(
            f"select count(*), count(distinct author_id) from ({tested['versions']})"
        ).fetchall()
    assert 0 < n_authors < 40
    assert n_versions == 10 * n_authors, "all versions of an entity or none"
    leaking = (
        "select author_id, effective_from as event_timestamp, lead(label) over (partition by "
        "author_id order by effective_from) as x"
    )
    with pytest.raises(GateError, match="differ when"):
        computed(warehouse, query_view(f"{leaking}, effective_until is null as y from versions"))


def test_rows_that_depend_on_the_order_of_versions_are_refused(new_home: NewHome) -> None:
    warehouse = staged(new_home, [version(f"r{n}", 0, text=f"{n}") for n in range(200)])
    sql = (
        "select author_id, effective_from as event_timestamp, arg_max(text, effective_from) as "
        "text from versions group by all"
    )
    with pytest.raises(
        GateError, match=r"1 rows differ when the versions come in another order.*break ties"
    ):
        computed(warehouse, query_view(sql))


def test_a_leak_leaves_nothing_published(new_home: NewHome, only: Only) -> None:
    only(view := query_view(of_record("effective_until is null"), record))
    warehouse = new_home()
    stage(warehouse, [version("r", 0)])
    with pytest.raises(GateError, match="nothing was committed"):
        featurize(warehouse, NOW)
    assert warehouse.n_rows(view.relation) == 0
    assert not list(warehouse.folder(view.relation).glob("*.parquet"))


# --- (3) increments ---


@settings(max_examples=7)
@given(HISTORIES, st.lists(st.integers(1, 8), max_size=2), st.sampled_from(HONEST_VIEWS))
# a late version removes an author's instant again
@example(
    [version("r", 0), version("r", HOUR, event=0, author="v"), version("r", -HOUR, event=2 * HOUR)],
    [1, 2],
    COUNT,
)
@example([version("r", HOUR), version("q", 0)], [1], FIRST_OF_TEXT)
def test_increments_in_any_order_equal_a_rebuild_at_any_instant(
    new_home: NewHome, only: Only, versions: list[Version], cuts: list[int], sql: str
) -> None:
    only(query_view(sql))
    grown, rebuilt = run(new_home(), *cut(versions, cuts)), run(new_home(), versions)
    found, wanted = by_entity(grown, "own"), by_entity(rebuilt, "own")
    for entity, instant in (
        (entity, instant) for entity in {*found, *wanted} for instant in instants_of(versions)
    ):
        one, other = (row_at(rows.get(entity, []), instant) for rows in (found, wanted))
        assert comparable(one) == comparable(other), (entity, instant - START)


def comparable(row: dict[str, Any] | None) -> dict[str, Any]:
    """A row without its key and instant; no row says the same as nulls."""
    values = {
        name: value
        for name, value in (row or {}).items()
        if name not in {"author_id", "event_timestamp"} and value is not None
    }
    return {
        name: pytest.approx(value) if isinstance(value, float) else value
        for name, value in values.items()
    }


def test_a_second_run_publishes_only_what_is_new_or_differs(new_home: NewHome, only: Only) -> None:
    only(query_view(COUNT))
    warehouse = run(
        new_home(), [version("r1", 0), version("r2", 2 * HOUR), version("q", 0, author="v")]
    )
    stage(warehouse, [version("r3", HOUR)])
    assert featurize(warehouse, NOW + timedelta(days=1)) == {
        "own": Rows(new=1, recomputed=1, untouched=2)
    }


def test_a_published_instant_that_is_no_more_says_what_is_right_there(
    new_home: NewHome, only: Only
) -> None:
    only(query_view(FIRST_OF_TEXT))
    warehouse = run(new_home(), [version("r1", 0), version("r2", 2 * HOUR, text="other")])
    stage(
        warehouse,
        [version("q", -HOUR, author="v"), version("q", HOUR, event=0, author="v", text="other")],
    )
    featurize(warehouse, NOW + timedelta(days=1))
    assert [row["n_first"] for row in by_entity(warehouse, "own")["u"]] == [None, None]
    assert [row["n_first"] for row in by_entity(warehouse, "own")["v"]] == [1, 1]


def test_last_digits_of_fractions_are_no_difference(new_home: NewHome, only: Only) -> None:
    def third(sign: str) -> QueryView:
        tiny = f"length(text) / 3.0 {sign} 1e-13"
        return query_view(
            f"select author_id, effective_from as event_timestamp, {tiny} as x, [{tiny}, "
            "null] as xs from versions"
        )

    warehouse = staged(new_home, [version("r", 0)])
    only(third("+"))
    featurize(warehouse, NOW)
    with connect(warehouse) as connection:
        changed = list(third("-").rows(Run(warehouse, connection, NOW), is_whole=False))
        other = query_view(
            "select author_id, effective_from as event_timestamp, 4.0 as x, [4.0, null] as xs "
            "from versions"
        )
        differing = list(other.rows(Run(warehouse, connection, NOW), is_whole=False))
    assert sum(batch.num_rows for batch in changed) == 0
    assert sum(batch.num_rows for batch in differing) == 1


def test_only_the_entities_asked_for_are_computed_again(new_home: NewHome, only: Only) -> None:
    only(view := query_view(COUNT))
    warehouse = run(new_home(), [version("r1", 0), version("q", HOUR, author="v")])
    with connect(warehouse) as connection:
        one_run = Run(warehouse, connection, NOW)
        connection.execute("create table asked as select 'v' as entity_id")
        assert sum(batch.num_rows for batch in view.rebuild(one_run, "asked")) == 0, (
            "nothing differs"
        )
        assert sorted(connection.sql(view.instants(one_run)).fetchall()) == [
            ("u", START + 1),
            ("v", START + HOUR + 1),
        ]
        create_view(connection, "features.own", [], view.contract.arrow_schema())
        made = [row for batch in view.rebuild(one_run, "asked") for row in batch.to_pylist()]
    assert [(row["author_id"], row["n_records"], row["is_new"]) for row in made] == [("v", 1, True)]


def test_a_backfill_computes_what_is_missing_and_what_other_sql_made(
    new_home: NewHome, only: Only, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = query_view(COUNT.replace("/ 7", "/ 8"))
    only(other)
    warehouse = run(
        new_home(),
        [version("r1", 0), version("r2", HOUR, text="other"), version("q", 0, author="v")],
    )
    view = query_view(COUNT)
    only(view)
    monkeypatch.setattr("transforms.features.backfill.VERSIONS_OF_A_CHUNK", 1)
    assert fill(warehouse, Span(), NOW + timedelta(days=1)) == {view.relation: Rows(recomputed=3)}
    assert newest(warehouse, "own")["sevenths"].to_list() == [9 / 7, 14 / 7, 9 / 7]
    assert stale_views(warehouse) == []


def test_what_rests_on_an_erased_record_is_computed_again(new_home: NewHome, only: Only) -> None:
    only(query_view(FIRST_OF_TEXT))
    kept = [version("r2", 2 * HOUR)]
    warehouse = run(new_home(), [version("q", HOUR, author="v"), *kept])
    assert by_entity(warehouse, "own").keys() == {"v"}
    stage(warehouse, kept, is_all=True)
    recompute(warehouse, {}, NOW + timedelta(days=1))
    assert {entity: len(rows) for entity, rows in by_entity(warehouse, "own").items()} == {"u": 1}


# --- (4) lineage ---


@settings(max_examples=4)
@given(HISTORIES, st.sampled_from([COUNT, LAST]))
def test_what_is_explained_is_what_is_published(
    new_home: NewHome, only: Only, versions: list[Version], sql: str
) -> None:
    only(view := query_view(sql))
    warehouse = run(new_home(), versions)
    rows = by_entity(warehouse, "own")
    with connect(warehouse) as connection:
        for entity, instant in (
            (entity, row["event_timestamp"] + step)
            for entity, found in rows.items()
            for row in found
            for step in (0, 1)
        ):
            at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=instant)
            explained = view.explain(connection, {"author_id": entity}, at, 1)
            assert comparable(explained.values) == comparable(row_at(rows[entity], instant))
            assert len(explained.records) == min(1, explained.n_records)
            if sql == COUNT:
                assert explained.n_records == explained.values["n_records"]


def test_rows_after_a_files_records_rest_on_it(new_home: NewHome, only: Only) -> None:
    only(view := query_view(COUNT))
    warehouse = run(
        new_home(), [version("r1", 0), version("r2", HOUR), version("q", HOUR, author="v")]
    )
    with connect(warehouse) as connection:
        assert view.count_resting(connection, "file") == {"n_rows": 3, "n_entities": 2}
        assert view.count_resting(connection, "other") == {"n_rows": 0, "n_entities": 0}
        assert view.rests_on(connection, ["a", "b"], "asked") == ["a", "b"]


# --- (5) what is refused ---


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select 1 as x from versions", "must give author_id as text"),
        (
            "select author_id, 1 as x from versions",
            "must give event_timestamp as an instant with time zone",
        ),
        (
            "select author_id, event_timestamp::date as event_timestamp, 1 as x from versions",
            "an instant with time zone",
        ),
        ("select author_id, event_timestamp from versions", "gives no feature"),
        (
            "select author_id, event_timestamp, {'a': 1} as x from versions",
            "x gives STRUCT.*cast it",
        ),
        (
            "select author_id, event_timestamp, [event_timestamp] as x from versions",
            "x is a list of instant.*cast its items",
        ),
        ("select author_id, event_timestamp, 1 from versions", "cannot be the name of a feature"),
        (
            "select author_id, event_timestamp, 1 as created_timestamp from versions",
            "cannot be the name of a feature",
        ),
        (
            "select author_id, event_timestamp, authors as x from versions",
            "the SQL cannot be bound.*authors",
        ),
        (
            "select author_id, event_timestamp, load_id from versions",
            "the SQL cannot be bound.*load_id",
        ),
        (
            "select author_id, event_timestamp, text from staging.records",
            "the SQL may not read staging.records; it can read versions",
        ),
        (
            "select author_id, event_timestamp, now() as x from versions",
            r"may not call now\(\): it gives another value in the next run",
        ),
        ("selec", "the SQL syntax error"),
        ("nowhere.sql", "nowhere.sql: cannot be read"),
    ],
)
def test_a_wrong_declaration_is_refused_with_its_mend(sql: str, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        query_view(sql)


def test_a_description_of_no_feature_is_refused() -> None:
    with pytest.raises(
        DeclarationError,
        match=(
            r"descriptions has n_record, which the SQL does not give; "
            r"it gives n_records, sevenths"
        ),
    ):
        QueryView(SqlView("own", author, COUNT, descriptions={"n_record": "Records."}), {}, Path())


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "select author_id, effective_from as event_timestamp, text as x from versions",
            "1 times there are several rows of the same",
        ),
        (
            "select author_id, effective_until as event_timestamp, text as x from versions",
            "3 rows have no event_timestamp",
        ),
        (
            (
                "select record_id as author_id, effective_from as event_timestamp, text::int as x "
                "from versions"
            ),
            r"the SQL fails on some record \(ConversionException\).*try_cast",
        ),
    ],
)
def test_what_the_records_make_wrong_is_refused_without_their_text(
    new_home: NewHome, sql: str, message: str
) -> None:
    warehouse = staged(
        new_home,
        [
            version("r1", 0, text="secret"),
            version("r2", 0, text="secret"),
            version("r3", HOUR, text="secret"),
        ],
    )
    with pytest.raises(GateError, match=message) as caught:
        computed(warehouse, query_view(sql))
    shown = [error for error in (caught.value, caught.value.__cause__) if error is not None]
    assert not any("secret" in str(error) for error in shown)


# --- (6) the digest ---


def test_comments_and_blanks_change_nothing_and_all_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.sql").write_text(
        f"-- a remark\n{COUNT.replace('select', 'SELECT  ')};\n", "utf-8"
    )
    assert query_view("own.sql", folder=tmp_path).digest() == query_view(COUNT).digest()
    assert query_view(COUNT.replace("/ 7", "/ 8")).digest() != query_view(COUNT).digest()
    quality = view_of("record_quality")
    sql = COUNT.replace(
        "from versions\n    where",
        "from versions join record_quality using (record_id, effective_from) where",
    )
    other = copy(quality)
    monkeypatch.setattr(other, "digest", lambda: 1, raising=False)
    assert (
        query_view(sql, record_quality=quality).digest()
        != query_view(sql, record_quality=other).digest()
    )
    assert (
        query_view(COUNT, record_quality=quality).digest()
        == query_view(COUNT, record_quality=other).digest()
        == query_view(COUNT).digest()
    )


def test_another_query_makes_all_rows_again(new_home: NewHome, only: Only) -> None:
    only(query_view(COUNT))
    warehouse = run(new_home(), [version("r1", 0)])
    only(view := query_view(COUNT.replace("/ 7", "/ 8")))
    assert is_made_by_other_code(view, warehouse)
    assert featurize(warehouse, NOW + timedelta(days=1)) == {"own": Rows(recomputed=1)}
    assert not is_made_by_other_code(view, warehouse)
    assert newest(warehouse, "own")["sevenths"].to_list() == [9 / 8]
