"""Random lives of a home: rows arrive, repeat, change, fail, are replayed and erased.

In between, the home is maintained and backfilled. After every step staging and the views equal
the definition in plain Python over all rows that passed, and a home built from the same raw rows
at once.
"""

import json
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.transforms.histories import (
    VERSIONS,
    Version,
    assert_activity_is_as_defined,
    assert_quality_is_as_defined,
    instants_of,
)
from transforms.features import backfill
from transforms.features.backfill import Span, fill
from transforms.features.build import featurize
from transforms.home import Settings
from transforms.sources.ingest import ingest
from transforms.sources.source import load_source
from transforms.staging.accounting import recount
from transforms.staging.prepare import prepare
from transforms.staging.quarantine import replay
from transforms.upkeep.erase import (
    Wanted,
    begin,
    begun_erasure,
    delete_files,
    end,
    erase_rows,
    find,
    recompute_views,
    refuse_what_is_left,
)
from transforms.upkeep.maintain import compact, vacuum
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

COLUMNS = (
    "record_id",
    "author_id",
    "subject_id",
    "event_timestamp",
    "known_timestamp",
    "text",
    "is_positive",
    "is_tombstone",
)
WRITTEN, MENDED = "written", '"coalesce(try_cast(written as timestamptz), mended::timestamptz)"'


def iso(microseconds: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)).isoformat()


def line(version: Version, *, is_broken: bool) -> str:
    row: dict[str, Any] = {
        "id": version.record,
        "author": version.author,
        "about": version.subject,
        "text": version.text,
    }
    row |= {
        "written": "some day" if is_broken else iso(version.event),
        "mended": iso(version.event),
        "known": iso(version.known),
    }
    return json.dumps(
        {**row, "label": "bad" if version.positive else "good", "gone": version.text is None}
    )


def as_defined(versions: list[Version]) -> list[Version]:
    """The versions that say something new: each record's, by knowledge, without repeats."""
    kept: list[Version] = []
    for version in sorted(set(versions), key=lambda version: (version.record, version.known)):
        before = kept[-1] if kept and kept[-1].record == version.record else None
        if before is None or before._replace(known=0) != version._replace(known=0):
            kept.append(version)
    return kept


class Home(RuleBasedStateMachine):
    """A home, its source, and what passed into it so far."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.passed: list[tuple[int, Version]] = []  # with the number of the file
        self.rejected: list[tuple[int, Version]] = []
        self.known: dict[tuple[str, int], Version] = {}
        self.n_files, self.minutes, self.is_mended = 0, 0, False
        (self.folder / "data").mkdir()
        self.warehouse = Warehouse(Settings(home=self.folder / "home", keep_days=0))
        self._map(WRITTEN)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def _map(self, written: str) -> None:
        record = (
            f"{{record_id: id, author_id: author, subject_id: about, event_timestamp: {written}, "
            f"text: text, label: label}}"
        )
        rest = (
            f"known: {{column: known}}\nrecord: {record}\ntombstone: gone\npositive_labels: [bad]\n"
        )
        (self.folder / "notes.yaml").write_text(f"name: notes\nuri: data/*.jsonl\n{rest}")

    def _now(self) -> datetime:
        self.minutes += 1
        return datetime(2026, 6, 1, tzinfo=UTC) + timedelta(minutes=self.minutes)

    @rule(
        versions=st.lists(VERSIONS, min_size=1, max_size=5),
        broken=st.sets(st.integers(0, 4), max_size=2),
    )
    def load(self, versions: list[Version], broken: set[int]) -> None:
        """A file arrives and is run; rows of one record and instant are equal, as redelivered."""
        delivered = [
            self.known.setdefault((version.record, version.known), version) for version in versions
        ]
        self.n_files += 1
        lines = [
            line(version, is_broken=number in broken) for number, version in enumerate(delivered)
        ]
        (self.folder / "data" / f"{self.n_files}.jsonl").write_text(
            "".join(f"{text}\n" for text in lines)
        )
        for number, version in enumerate(delivered):
            is_rejected = number in broken and not self.is_mended
            (self.rejected if is_rejected else self.passed).append((self.n_files, version))
        source = load_source(self.folder / "notes.yaml")
        ingest(source, self.warehouse)
        prepare(source, self.warehouse)
        featurize(self.warehouse, self._now())

    @precondition(lambda self: self.n_files)
    @rule()
    def mend(self) -> None:
        """The mapping learns to read the rejected rows, and they are tried again."""
        self._map(MENDED)
        self.is_mended = True
        replay(load_source(self.folder / "notes.yaml"), self.warehouse)
        self.passed += self.rejected
        self.rejected = []
        featurize(self.warehouse, self._now())

    @precondition(lambda self: self.n_files)
    @rule()
    def maintain(self) -> None:
        """Tables are compacted, and nothing old is kept."""
        compact(self.warehouse, is_dry=False)
        vacuum(self.warehouse, [], is_dry=False)

    @precondition(lambda self: self.n_files)
    @rule()
    def backfill(self) -> None:
        """Nothing is missing, so nothing is filled."""
        assert [due.n_rows for due in backfill.find(self.warehouse, Span()) if due.n_rows] == []
        fill(self.warehouse, Span(), self._now())

    @precondition(lambda self: self.passed)
    @rule(data=st.data(), what=st.sampled_from(["author", "record", "source_file"]))
    def erase(self, data: st.DataObject, what: str) -> None:
        """The rows of an author, a record or a file are erased, with all that was made of them."""
        file, version = data.draw(st.sampled_from(self.passed))
        names = {
            "author": version.author,
            "record": version.record,
            "source_file": (self.folder / f"data/{file}.jsonl").as_uri(),
        }
        erase(self.warehouse, Wanted(**{what: names[what]}), self._now())

        def stays(row: tuple[int, Version]) -> bool:
            return (
                (row[0] != file) if what == "source_file" else getattr(row[1], what) != names[what]
            )

        self.passed, self.rejected = (
            list(filter(stays, self.passed)),
            list(filter(stays, self.rejected)),
        )

    @invariant()
    def says_what_the_definition_says(self) -> None:
        if not getattr(self, "n_files", 0):
            return
        assert recount(self.warehouse)["adds_up"].all()
        versions = as_defined([version for _, version in self.passed])
        assert staged(self.warehouse) == sorted(map(row, versions))
        instants = instants_of(versions)[::7]
        assert_activity_is_as_defined(self.warehouse, versions, instants)
        assert_quality_is_as_defined(self.warehouse, versions, instants)


def erase(warehouse: Warehouse, wanted: Wanted, now: datetime) -> None:
    with connect(warehouse) as connection:
        find(connection, warehouse, wanted)
    begin(warehouse, wanted)
    erasure = begun_erasure(warehouse)
    assert erasure
    erase_rows(warehouse, erasure)
    recompute_views(warehouse, erasure, now)
    delete_files(warehouse, erasure)
    refuse_what_is_left(warehouse, erasure)
    end(warehouse)


def row(version: Version) -> tuple[Any, ...]:
    values = (
        version.record,
        version.author,
        version.subject or "",
        version.event,
        version.known,
        version.text or "",
    )
    return (*values, version.positive, version.text is None)


def staged(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    frame = pl.read_delta(str(warehouse.folder("staging.records"))).select(COLUMNS)
    texts = pl.col("subject_id", "text").fill_null("")
    return sorted(
        frame.with_columns(
            texts, pl.col("event_timestamp", "known_timestamp").dt.timestamp("us")
        ).rows()
    )


Home.TestCase.settings = settings(max_examples=4, stateful_step_count=6)
TestHome = Home.TestCase
