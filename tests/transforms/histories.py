"""Small histories of records: staged, featurized, and compared with the definition in plain Python.

Instants are whole microseconds since 1970 here, as in the SQL models.
"""

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
from hypothesis import strategies as st

from transforms.features.build import featurize
from transforms.schemas.staging import StagedRecord
from transforms.warehouse.publishing import publish
from transforms.warehouse.tables import Warehouse

HOUR = 3_600_000_000
DAY = 24 * HOUR
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
WINDOWS = {"1d": (DAY, HOUR), "7d": (7 * DAY, HOUR), "28d": (28 * DAY, DAY)}
NOW = datetime(2026, 6, 1, tzinfo=UTC)
TIMES = ("event_timestamp", "first_event_timestamp")
ENTITIES = {"author_activity": "author", "subject_activity": "subject"}


class Version(NamedTuple):
    record: str
    author: str
    subject: str | None
    event: int
    known: int
    text: str | None
    positive: bool

    @property
    def effective(self) -> int:
        return max(self.event, self.known)


def version(
    record: str,
    known: int,
    event: int | None = None,
    author: str = "u",
    text: str | None = "two words",
) -> Version:
    """A version on subject `s` with the negative label; no text: a tombstone; times from START."""
    return Version(
        record,
        author,
        "s",
        START + (known if event is None else event),
        START + known,
        text,
        positive=False,
    )


# --- a home, filled ---


def stage(warehouse: Warehouse, versions: Sequence[Version], *, is_all: bool = False) -> None:
    """Publish versions beside the existing ones, or in their place, in new files, if `is_all`."""
    rows = [
        {
            "record_id": v.record,
            "author_id": v.author,
            "subject_id": v.subject,
            "event_timestamp": v.event,
            "known_timestamp": v.known,
            "text": v.text,
            "text_redacted": v.text,
            "label": None if v.text is None else "bad" if v.positive else "good",
            "is_positive": v.positive,
            "is_tombstone": v.text is None,
            "attributes": None,
            "content_digest": repr(v),
            "source": "notes",
            "load_id": "load",
            "source_uri": "file",
            "row_number": number,
            "loaded_timestamp": v.known,
        }
        for number, v in enumerate(versions, 1)
    ]
    table = pa.Table.from_pylist(
        rows, pa.schema([(name, _as_integer(field)) for name, field in _fields(StagedRecord)])
    )
    replaced = warehouse.files(StagedRecord.relation()) if is_all else []
    publish(
        warehouse,
        StagedRecord,
        table.cast(StagedRecord.arrow_schema()).to_batches(),
        {},
        without=replaced,
    )


def _fields(contract: type[StagedRecord]) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in contract.arrow_schema()]


def _as_integer(kind: pa.DataType) -> pa.DataType:
    return pa.int64() if pa.types.is_timestamp(kind) else kind


def run(warehouse: Warehouse, *increments: Sequence[Version]) -> Warehouse:
    """Stage and featurize increments one after another, an hour between runs."""
    for number, increment in enumerate(increments):
        stage(warehouse, increment)
        featurize(warehouse, NOW + timedelta(hours=number))
    return warehouse


def rows_of(warehouse: Warehouse, view: str) -> pl.DataFrame:
    """All rows of a view, its times as microseconds."""
    frame = pl.read_delta(str(warehouse.folder(f"features.{view}")))
    return frame.with_columns(
        pl.col(name).dt.timestamp("us") for name in TIMES if name in frame.columns
    )


def newest(warehouse: Warehouse, view: str) -> pl.DataFrame:
    """The newest row of every entity and instant, in order, without `created_timestamp`."""
    rows = rows_of(warehouse, view)
    key = next(name for name in rows.columns if name in ("record_id", "author_id", "subject_id"))
    last = (
        rows.sort("created_timestamp")
        .unique([key, "event_timestamp"], keep="last")
        .sort(key, "event_timestamp")
    )
    return last.select(
        key, "event_timestamp", pl.exclude(key, "event_timestamp", "created_timestamp")
    )


def by_entity(warehouse: Warehouse, view: str) -> dict[str, list[dict[str, Any]]]:
    rows = newest(warehouse, view)
    return {
        str(key[0]): group.to_dicts()
        for key, group in rows.group_by(rows.columns[0], maintain_order=True)
    }


def row_at(rows: Iterable[dict[str, Any]], instant: int) -> dict[str, Any] | None:
    """The newest row at or before an instant, as a point-in-time join finds it."""
    return max(
        (row for row in rows if row["event_timestamp"] <= instant),
        key=lambda row: row["event_timestamp"],
        default=None,
    )


# --- the definition, in plain Python ---


def standing(versions: Sequence[Version], instant: int) -> list[Version]:
    """Each record's newest version known before an instant; none where that is a tombstone."""
    known = sorted((v for v in versions if v.known < instant), key=lambda v: v.known)
    return [v for v in {v.record: v for v in known}.values() if v.text is not None]


def counting(versions: Sequence[Version], instant: int) -> list[Version]:
    return [v for v in standing(versions, instant) if v.effective < instant]


def in_window(v: Version, window: str, instant: int) -> bool:
    if window == "lifetime":
        return True
    span, hop = WINDOWS[window]
    return instant < -(-(v.event + span) // hop) * hop


def activity(versions: Sequence[Version], level: str, entity: str, instant: int) -> dict[str, Any]:
    """An entity's activity at an instant, by the definition."""
    mine = [v for v in counting(versions, instant) if getattr(v, level) == entity]
    # to the second: what Feast serves online, and so what may be trained on
    expected: dict[str, Any] = {
        "first_event_timestamp": min((v.event // 1_000_000 * 1_000_000 for v in mine), default=None)
    }
    for window in (*WINDOWS, "lifetime"):
        inside = [v for v in mine if in_window(v, window, instant)]
        expected[f"n_records_{window}"] = len(inside)
        expected[f"n_words_{window}"] = sum(len((v.text or "").split()) for v in inside)
        expected[f"mean_characters_{window}"] = (
            sum(len(v.text or "") for v in inside) / len(inside) if inside else None
        )
        expected[f"positive_ratio_{window}"] = (
            sum(v.positive for v in inside) / len(inside) if inside else None
        )
    return expected


def instants_of(versions: Sequence[Version]) -> list[int]:
    """All instants at which anything may change, and a microsecond before and after each."""
    points = {point for v in versions for point in (v.event, v.known, v.known + 1, v.effective + 1)}
    points |= {
        -(-(v.event + span) // hop) * hop for v in versions for span, hop in WINDOWS.values()
    }
    return sorted({point + step for point in points for step in (-1, 0, 1)})


def assert_activity_is_as_defined(
    warehouse: Warehouse,
    versions: Sequence[Version],
    instants: Iterable[int],
    also: Sequence[Version] = (),
) -> None:
    """Check both views against the definition; entities only in `also` must count nothing."""
    instants = list(instants)
    for view, level in ENTITIES.items():
        found = by_entity(warehouse, view)
        entities = {getattr(v, level) for v in (*versions, *also)} - {None}
        assert set(found) <= entities
        for entity, instant in itertools.product(sorted(entities), instants):
            expected = activity(versions, level, entity, instant)
            row = row_at(found.get(entity, []), instant)
            # no row yet says the same as counts of zero
            actual = (
                {name: row[name] for name in expected}
                if row
                else activity([], level, entity, instant)
            )
            assert actual == expected, (view, entity, instant - START)


def assert_quality_is_as_defined(
    warehouse: Warehouse,
    versions: Sequence[Version],
    instants: Iterable[int],
    also: Sequence[Version] = (),
) -> None:
    found = by_entity(warehouse, "record_quality")
    for record, instant in itertools.product(
        sorted({v.record for v in (*versions, *also)}), instants
    ):
        current = max(
            (v for v in versions if v.record == record and v.effective <= instant),
            key=lambda v: v.known,
            default=None,
        )
        row = row_at(found.get(record, []), instant)
        n_characters = row["n_characters"] if row else None
        assert n_characters == (
            None if current is None or current.text is None else len(current.text)
        ), (record, instant - START)


# --- histories ---

# offsets that meet: on a hop, a microsecond beside it, within an hour, at a window's end
OFFSETS = st.builds(
    sum,
    st.tuples(
        st.sampled_from([0, 1, 6, 7, 8, 27, 28, 40]).map(lambda days: days * DAY),
        st.sampled_from([0, 0, 1, 5, 23]).map(lambda hours: hours * HOUR),
        st.sampled_from([0, 0, 1, -1, 1234567]),
    ),
)
# known before it is written (less than a day), at once, late, after it has left windows
LAGS = st.sampled_from([-DAY + 1, -5 * HOUR, -1, 0, 0, 0, 1, HOUR, DAY, 7 * DAY, 8 * DAY, 30 * DAY])
# an author alone is common; a null subject too
VERSIONS = st.builds(
    lambda record, author, subject, event, lag, text, positive: Version(
        record,
        author,
        subject,
        START + event,
        START + event + lag,
        text,
        positive=positive and text is not None,
    ),
    st.sampled_from(["r1", "r2", "r3", "r4"]),
    st.sampled_from(["u1", "u1", "u2"]),
    st.sampled_from(["s1", "s1", "s2", None]),
    OFFSETS,
    LAGS,
    st.sampled_from(["a", "two words", "now three words", None]),
    st.booleans(),
)
HISTORIES = st.lists(VERSIONS, min_size=1, max_size=9, unique_by=lambda v: (v.record, v.known))


def cut(versions: Sequence[Version], cuts: Iterable[int]) -> list[list[Version]]:
    bounds = [0, *sorted(min(at, len(versions)) for at in cuts), len(versions)]
    return [list(versions[start:end]) for start, end in itertools.pairwise(bounds) if end > start]


def by_known(versions: Sequence[Version]) -> list[Version]:
    return sorted(versions, key=lambda v: v.known)
