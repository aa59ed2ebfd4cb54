"""How fast the store engine is, compared with stock Feast and the engines underneath.

Every contender runs in a fresh process on the same files; what a contender returns is compared by
checksum, so that nobody is quick by being wrong. Contenders take turns, and the best round of each
counts. Feast's own parts are the contender `stock`.
"""

import argparse
import itertools
import json
import os
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from harness import (
    ROOT,
    CaseFailedError,
    Goal,
    Measured,
    clock,
    goal_table,
    in_fresh_process,
    lend,
    machine,
    say,
    table,
    write,
)
from servers import free_port, postgres_server, redis_server, running

FLOORS = Path(__file__).with_name("floors.json")
LIBRARIES = ("feast", "polars", "duckdb", "pyarrow", "deltalake", "redis", "psycopg")
START, DAY = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=1)
DAYS, ZONES, N_FEATURES = 90, 263, 20
FEATURES = [f"f{number}" for number in range(N_FEATURES)]
OURS = "feature_repo.stores"
MIN_FREE_BYTES = 5_000_000_000  # of the disk, below which stock Feast is stopped
ASOF = {"type": f"{OURS}.asof.AsofOfflineStore"}
ENGINE = {"type": f"{OURS}.columnar.ColumnarComputeEngine"}
ABOUT = """measure the store engine beside stock Feast, DuckDB and Polars

Data lies in a temp folder (TMPDIR says where; 5 GB for the case of 100 million rows) that is
removed at the end.
"""
EXAMPLES = """examples:
  benchmarks/store.py --small                      all cases but the largest, in a minute or two
  benchmarks/store.py --small --check              as `make bench` does: see floors.json
  benchmarks/store.py --write docs/benchmarks.md   all cases, about half an hour on a quiet machine
  benchmarks/store.py --case read materialize      some cases
  benchmarks/store.py --case zones --scale 0.1     a tenth of all rows and entities
"""


class Sizes(NamedTuple):
    """How much of everything."""

    feature_rows: int = 2_000_000
    spine_rows: int = 200_000
    entities: int = 100_000
    trips: int = 10_000_000
    many_trips: int = 100_000_000
    online_entities: int = 100_000
    many_online_entities: int = 1_000_000
    calls: int = 300
    repeat: int = 3  # times in one process
    rounds: int = 2  # processes of each contender
    stock_limit_seconds: float = 120

    def scaled(self, factor: float) -> "Sizes":
        """Change how many rows and entities there are."""
        rows = (
            "feature_rows",
            "spine_rows",
            "entities",
            "trips",
            "many_trips",
            "online_entities",
            "many_online_entities",
        )
        return self._replace(**{name: round(getattr(self, name) * factor) for name in rows})


SMALL = Sizes(100_000, 20_000, 5_000, 200_000, 0, 3_000, 0, 30, 3, 1, 10)


class Report(NamedTuple):
    """One case: its table, and what of it has a goal."""

    text: str
    ratios: dict[str, float]
    goals: list[Goal]


def main() -> int:
    arguments = parse_arguments()
    sizes, load = SMALL if arguments.small else Sizes().scaled(arguments.scale), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        reports = [CASES[name](Path(folder), sizes) for name in arguments.case]
    command = shlex.join([".venv/bin/python", "benchmarks/store.py", *sys.argv[1:]])
    goals = [goal for report in reports for goal in report.goals]
    text = "\n\n".join(
        [
            "## Store",
            f"`{command}`",
            machine(load, LIBRARIES),
            *(report.text for report in reports),
            goal_table("goals" if sizes == Sizes() else "goals, set for the full size", goals),
        ]
    )
    print(text)
    if arguments.write:
        write(arguments.write, "store", text)
    missed = (
        misses({name: ratio for report in reports for name, ratio in report.ratios.items()})
        if arguments.check
        else []
    )
    for line in missed:
        say(line)
    return 1 if missed else 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--case", nargs="+", choices=CASES, default=list(CASES), help="which cases (all)"
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--small",
        action="store_true",
        help="small data: does it work, and how far from the ceilings",
    )
    size.add_argument(
        "--scale", type=float, default=1.0, metavar="F", help="times as many rows and entities (1)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="with --small: fail where a ceiling of floors.json is broken",
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="put the tables into this Markdown page, e.g. docs/benchmarks.md",
    )
    arguments = parser.parse_args()
    if arguments.check and not arguments.small:
        parser.error(
            "--check goes with --small: the ceilings in floors.json are those of a small run"
        )
    return arguments


def misses(ratios: dict[str, float]) -> list[str]:
    """Hold ratios against the ceilings; a line for each miss."""
    ceilings = json.loads(FLOORS.read_text("utf-8"))["store"]
    return [
        f"{name}: {ratios[name]:.2f}, the ceiling is {ceilings[name]}"
        for name in ceilings
        if name in ratios and ratios[name] > ceilings[name]
    ]


# --- point-in-time joins ---


def join_case(folder: Path, sizes: Sizes) -> Report:
    """20 features of one view, keys drawn uniformly and by Zipf's law."""
    rows, ratios, goals = [], {}, []
    for keys in ("uniform", "zipf"):
        with lend(folder, keys) as data:
            in_fresh_process(make_join, data, keys, sizes)
            runs = {
                "DuckDB ASOF": (raw_duckdb, data, sizes.repeat),
                "Polars join_asof": (raw_polars, data, sizes.repeat),
                "millrace": (feast_join, data, {**ASOF, "warehouse": str(data)}, sizes.repeat),
                "stock Feast, DuckDB store": (feast_join, data, {"type": "duckdb"}, sizes.repeat),
            }
            found = contest(f"join, {keys} keys", runs, sizes.rounds, sizes.stock_limit_seconds)
        raw = min(found[name].seconds for name in ("DuckDB ASOF", "Polars join_asof"))
        rows += [
            row(f"{keys} keys", name, result, sizes.spine_rows, raw)
            for name, result in found.items()
        ]
        ratio = ratios[f"join_{keys}_over_raw"] = found["millrace"].seconds / raw
        goals.append(
            Goal(
                f"join, {keys} keys, x the quicker raw engine",
                f"{ratio:.2f}",
                "<= 1.5",
                ratio <= 1.5,
            )
        )
        stock = found["stock Feast, DuckDB store"]
        if not isinstance(stock, str):
            faster = stock.seconds / found["millrace"].seconds
            goals.append(
                Goal(
                    f"join, {keys} keys, stock's time over ours",
                    f"{faster:.1f}",
                    ">= 1.5",
                    faster >= 1.5,
                )
            )
    title = (
        f"{sizes.feature_rows:,} feature rows, {sizes.entities:,} keys, {sizes.spine_rows:,} "
        "spine rows to pandas"
    )
    return Report(
        table([title, "contender", "seconds", "rows/s", "peak MB", "x raw"], rows), ratios, goals
    )


def zones_case(folder: Path, sizes: Sizes) -> Report:
    """Trips joined with 15- and 30-minute aggregates of their zone: two views of four features."""
    rows, ratios, goals = [], {}, []
    with lend(folder, "zones") as data:
        in_fresh_process(make_zones, data, sizes.trips)
        store = {**ASOF, "warehouse": str(data), "memory_limit": "2GB"}
        runs = {
            "DuckDB ASOF": (raw_zones_duckdb, data),
            "Polars join_asof": (raw_zones_polars, data),
            "millrace": (feast_zones, data, store, None),
        }
        found = contest("zones", runs, sizes.rounds)
        raw = min(found[name].seconds for name in ("DuckDB ASOF", "Polars join_asof"))
        rows += [
            row(f"{sizes.trips:,} to pandas", name, result, sizes.trips, raw)
            for name, result in found.items()
        ]
        speed = sizes.trips / found["millrace"].seconds
        goals.append(
            Goal("zones to pandas, rows/s", f"{speed:,.0f}", ">= 1,000,000", speed >= 1_000_000)
        )
        ratios["zones_over_raw"] = found["millrace"].seconds / raw
        to_parquet = contest(
            "zones to Parquet",
            {"millrace": (feast_zones, data, store, data / "out.parquet")},
            sizes.rounds,
        )["millrace"]
        rows.append(row(f"{sizes.trips:,} to Parquet", "millrace", to_parquet, sizes.trips))
        if in_fresh_process(read_checksum, data / "out.parquet").made != found["millrace"].made:
            sys.exit("zones: the Parquet file differs from the frame")
    if sizes.many_trips:
        with lend(folder, "zones") as data:
            in_fresh_process(make_zones, data, sizes.many_trips)
            many = in_fresh_process(
                feast_zones, data, {**store, "warehouse": str(data)}, data / "out.parquet"
            )
        if many.made != sizes.many_trips:
            sys.exit(f"zones: {many.made:,} rows of {sizes.many_trips:,} were written")
        rows.append(row(f"{sizes.many_trips:,} to Parquet", "millrace", many, sizes.many_trips))
        relative = (sizes.many_trips / many.seconds) / (sizes.trips / to_parquet.seconds)
        goals.append(
            Goal(
                f"{sizes.many_trips:,} to Parquet, throughput over that of {sizes.trips:,}",
                f"{relative:.2f}",
                ">= 0.75",
                relative >= 0.75,
            )
        )
        goals.append(
            Goal(
                f"{sizes.many_trips:,} to Parquet, peak MB of the process",
                f"{many.peak_mb:,.0f}",
                "<= 4,000",
                many.peak_mb <= 4_000,
            )
        )
    title = f"trips with aggregates of {ZONES} zones, 2 views"
    return Report(
        table([title, "contender", "seconds", "rows/s", "peak MB", "x raw"], rows), ratios, goals
    )


def contest(
    what: str,
    runs: dict[str, tuple[Any, ...]],
    rounds: int = 1,
    stock_limit_seconds: float | None = None,
    after: Callable[[str], Any] = str,
) -> dict[str, Any]:
    """Run contenders in turn and take the best round of each; all that finish must agree.

    A failure of stock Feast is reported as text.
    """
    found: dict[str, Any] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            if not isinstance(found.get(name), str):  # what failed once is not tried again
                result = attempt(name, run, stock_limit_seconds)
                after(name)
                say(
                    f"{what}: {name}: "
                    + (
                        result
                        if isinstance(result, str)
                        else f"{result.seconds:.2f} s, {result.peak_mb:,.0f} MB"
                    )
                )
                found[name] = (
                    result
                    if isinstance(result, str)
                    else min(result, found.get(name, result), key=lambda best: best.seconds)
                )
    answers = {result.made for result in found.values() if not isinstance(result, str)}
    if len(answers) != 1:
        sys.exit(f"{what}: the contenders disagree: {answers}")
    return found


def attempt(name: str, run: tuple[Any, ...], stock_limit_seconds: float | None) -> Measured | str:
    """Run a contender once; with a limit, stock Feast may fail."""
    case, *arguments = run
    if not (stock_limit_seconds and name.startswith("stock")):
        return in_fresh_process(case, *arguments)
    if not find_spec("ibis"):
        return "not installed: pip install 'feast[duckdb]'"
    try:
        return in_fresh_process(case, *arguments, limit_seconds=stock_limit_seconds)
    except CaseFailedError as failure:
        return str(failure)


def row(what: str, name: str, result: Any, n_rows: int, raw: float | None = None) -> list[str]:
    """Format one contender; `raw` is the time of the faster raw engine at the same work, if any."""
    if isinstance(result, str):
        return [what, name, result[:60], "", "", ""]
    ratio = f"{result.seconds / raw:.2f}" if raw else ""
    return [
        what,
        name,
        f"{result.seconds:.2f}",
        f"{n_rows / result.seconds:,.0f}",
        f"{result.peak_mb:,.0f}",
        ratio,
    ]


def make_join(data: Path, keys: str, sizes: Sizes) -> Measured:
    """Write a random feature table and a spine; some spine rows have no earlier feature row."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = np.random.default_rng(7)

    def draw(n_rows: int) -> dict[str, Any]:
        drawn = (
            generator.integers(0, sizes.entities, n_rows)
            if keys == "uniform"
            else generator.zipf(1.3, n_rows) % sizes.entities
        )
        return {
            "user_id": drawn.astype("int64"),
            "event_timestamp": instants(generator.integers(0, DAYS * 86_400_000_000, n_rows)),
        }

    values = {
        name: generator.integers(0, 1000, sizes.feature_rows)
        if name in FEATURES[:8]
        else generator.random(sizes.feature_rows)
        for name in FEATURES
    }
    pq.write_table(pa.table({**draw(sizes.feature_rows), **values}), data / "features.parquet")
    pq.write_table(
        pa.table({**draw(sizes.spine_rows), "row_id": np.arange(sizes.spine_rows)}),
        data / "spine.parquet",
    )
    return Measured(0, 0)


def make_zones(data: Path, trips: int) -> Measured:
    """Write aggregates of 30 days and the trips, in row groups of a million."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = np.random.default_rng(7)
    for minutes in (15, 30):
        steps = 30 * 24 * 60 // minutes
        at = np.tile(np.arange(steps) * minutes * 60_000_000, ZONES)
        values = {
            f"{name}_{minutes}": generator.integers(0, 100, len(at))
            if name == "n_trips"
            else generator.random(len(at))
            for name in ZONE_FEATURES
        }
        pq.write_table(
            pa.table(
                {
                    "zone_id": np.repeat(np.arange(ZONES), steps),
                    "event_timestamp": instants(at),
                    **values,
                }
            ),
            data / f"zone_{minutes}.parquet",
        )
    writer = None
    for first in range(0, trips, 1_000_000):
        number = min(1_000_000, trips - first)
        at = instants(generator.integers(0, 30 * 86_400_000_000, number))
        part = pa.table(
            {
                "trip_id": np.arange(first, first + number),
                "zone_id": generator.integers(0, ZONES, number),
                "event_timestamp": at,
            }
        )
        writer = writer or pq.ParquetWriter(data / "trips.parquet", part.schema)
        writer.write_table(part)
    if writer:
        writer.close()
    return Measured(0, 0)


def instants(microseconds: Any) -> Any:
    """Count microseconds from START."""
    import pyarrow as pa

    return pa.array(microseconds + int(START.timestamp()) * 1_000_000, pa.int64()).cast(
        pa.timestamp("us", "UTC")
    )


ZONE_FEATURES = ("n_trips", "fare_mean", "tip_mean", "distance_mean")
ZONE_COLUMNS = [f"{name}_{minutes}" for minutes in (15, 30) for name in ZONE_FEATURES]


def raw_duckdb(data: Path, repeat: int) -> Measured:
    """DuckDB alone, in the spine's order, as a pandas frame."""
    columns = ", ".join(f"feature.{name}" for name in FEATURES)
    return duckdb_to_pandas(
        f"""select spine.* exclude (n), {columns}
        from (select *, row_number() over () as n from '{data}/spine.parquet') as spine
        asof left join '{data}/features.parquet' as feature
        on spine.user_id = feature.user_id and spine.event_timestamp >= feature.event_timestamp
        order by n""",
        repeat,
        "row_id",
        FEATURES,
    )


def raw_zones_duckdb(data: Path) -> Measured:
    """DuckDB alone, in the trips' order, as a pandas frame."""
    joins = "".join(
        f" asof left join '{data}/zone_{minutes}.parquet' as zone_{minutes}"
        f" on trip.zone_id = zone_{minutes}.zone_id and trip.event_timestamp >= "
        f"zone_{minutes}.event_timestamp"
        for minutes in (15, 30)
    )
    sql = (
        f"select trip.*, {', '.join(ZONE_COLUMNS)} from '{data}/trips.parquet' as trip{joins} "
        "order by trip_id"
    )
    return duckdb_to_pandas(sql, 1, "trip_id", ZONE_COLUMNS)


def duckdb_to_pandas(sql: str, repeat: int, row_id: str, features: Sequence[str]) -> Measured:
    """Run SQL as a pandas frame; through Arrow, which is quicker than `.df()`."""
    import duckdb

    with (
        tempfile.TemporaryDirectory() as spill,
        duckdb.connect(config={"temp_directory": spill}) as connection,
    ):
        connection.execute("set timezone = 'UTC'")
        connection.sql(
            "select 1"
        ).to_arrow_table().to_pandas()  # loads what Feast loads before its clock starts
        measured = clock(lambda: connection.sql(sql).to_arrow_table().to_pandas(), repeat)
    return measured._replace(made=checksum(measured.made, row_id, features))


def raw_polars(data: Path, repeat: int) -> Measured:
    """Polars alone, in the spine's order, as a pandas frame."""
    import polars as pl

    def work() -> Any:
        spine = pl.read_parquet(data / "spine.parquet").with_row_index("n").sort("event_timestamp")
        features = pl.read_parquet(data / "features.parquet").sort("event_timestamp")
        joined = spine.join_asof(
            features, on="event_timestamp", by="user_id", check_sortedness=False
        )
        return joined.sort("n").drop("n").to_arrow().to_pandas()

    pl.DataFrame({"loaded": [1]}).to_arrow().to_pandas()
    measured = clock(work, repeat)
    return measured._replace(made=checksum(measured.made, "row_id", FEATURES))


def raw_zones_polars(data: Path) -> Measured:
    """Polars alone, in the trips' order, as a pandas frame."""
    import polars as pl

    def work() -> Any:
        trips = pl.read_parquet(data / "trips.parquet").sort("event_timestamp")
        for minutes in (15, 30):
            zones = pl.read_parquet(data / f"zone_{minutes}.parquet").sort("event_timestamp")
            trips = trips.join_asof(
                zones, on="event_timestamp", by="zone_id", check_sortedness=False
            )
        return trips.sort("trip_id").to_arrow().to_pandas()

    pl.DataFrame({"loaded": [1]}).to_arrow().to_pandas()
    measured = clock(work)
    return measured._replace(made=checksum(measured.made, "trip_id", ZONE_COLUMNS))


def feast_join(data: Path, offline_store: dict[str, Any], repeat: int) -> Measured:
    """Feast, with one of the offline stores."""
    import pandas as pd

    os.chdir(data)  # where DuckDB spills, if Feast opens it
    is_stock = offline_store["type"] == "duckdb"
    if is_stock:
        Thread(target=end_before_the_disk_is_full, args=(data,), daemon=True).start()
    with feast_store(data, [("user", "user_id", "features", FEATURES)], offline_store) as store:
        spine, features = (
            pd.read_parquet(data / "spine.parquet"),
            [f"features:{name}" for name in FEATURES],
        )
        measured = clock(lambda: store.get_historical_features(spine, features).to_df(), repeat)
    return measured._replace(
        made=checksum(measured.made, "row_id", FEATURES, is_ordered=not is_stock)
    )


def end_before_the_disk_is_full(folder: Path) -> None:
    """End this process when there is little room left; whoever started it removes the folder."""
    while shutil.disk_usage(folder).free > MIN_FREE_BYTES:
        time.sleep(0.2)
    say(f"{folder}: under {MIN_FREE_BYTES:,} bytes free")
    os._exit(1)


def feast_zones(data: Path, offline_store: dict[str, Any], out: Path | None) -> Measured:
    """Feast with our offline store, from a path."""
    views = [
        ("zone", "zone_id", f"zone_{minutes}", [f"{name}_{minutes}" for name in ZONE_FEATURES])
        for minutes in (15, 30)
    ]
    features = [f"{view}:{name}" for _, _, view, names in views for name in names]
    with feast_store(data, views, offline_store) as store:

        def work() -> Any:
            job = store.get_historical_features(str(data / "trips.parquet"), features)
            return job.to_parquet(out) if out else job.to_df()

        measured = clock(work)
    return (
        measured
        if out
        else measured._replace(made=checksum(measured.made, "trip_id", ZONE_COLUMNS))
    )


def read_checksum(path: Path) -> Measured:
    """Tell what the file of trips holds."""
    import pandas as pd

    return Measured(0, 0, checksum(pd.read_parquet(path), "trip_id", ZONE_COLUMNS))


def checksum(
    frame: Any, row_id: str, features: Sequence[str], *, is_ordered: bool = True
) -> tuple[int, ...]:
    """Digest each feature: the sum of its bits times the row number, modulo 2**64; null is -1.

    Raises `ValueError` where rows are not in the spine's order; stock Feast's DuckDB store does not
    keep it.
    """
    if is_ordered and not frame[row_id].is_monotonic_increasing:
        message = "the rows are not in the spine's order"
        raise ValueError(message)
    number = frame[row_id].to_numpy() + 1
    return len(frame), *(
        int((frame[name].astype("float64").fillna(-1.0).to_numpy().view("int64") * number).sum())
        for name in features
    )


@contextmanager
def feast_store(
    data: Path,
    views: list[tuple[str, str, str, list[str]]],
    offline_store: dict[str, Any],
    online_store: dict[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Any]:
    """Open a Feast store over Parquet files of a folder, each: entity, key, view, features."""
    import contextlib
    import io

    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64, Int64, String

    def kind(name: str) -> Any:
        return (
            Int64
            if name in FEATURES[:8] or name.startswith("n_")
            else String
            if name in FEATURES[16:] and online_store
            else Float64
        )

    with tempfile.TemporaryDirectory(dir=data) as place:
        entities = {
            key: Entity(name=entity, join_keys=[key], value_type=ValueType.INT64)
            for entity, key, _, _ in views
        }
        objects = [
            FeatureView(
                name=view,
                entities=[entities[key]],
                ttl=timedelta(0),
                schema=[
                    Field(name=key, dtype=Int64),
                    *(Field(name=name, dtype=kind(name)) for name in names),
                ],
                source=FileSource(
                    name=view, path=str(data / f"{view}.parquet"), timestamp_field="event_timestamp"
                ),
            )
            for _, key, view, names in views
        ]
        config = RepoConfig(
            project="bench",
            provider="local",
            registry=f"{place}/registry.db",
            repo_path=Path(place),
            offline_store=offline_store,
            online_store=online_store or {"type": "sqlite", "path": f"{place}/online.db"},
            entity_key_serialization_version=3,
            **settings,
        )
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            store = FeatureStore(config=config)
            store.apply([*entities.values(), *objects])
            yield store


# --- materialization ---


def materialize_case(folder: Path, sizes: Sizes) -> Report:
    """All entities of one view into an empty online store: stock Feast's engine and ours."""
    rows, ratios, goals = [], {}, []
    with lend(folder, "online") as data, redis_server() as redis, postgres_server() as postgres:
        in_fresh_process(make_online, data, sizes.online_entities)
        for name, store in online_stores(data, redis, postgres).items():
            sizes_of_file = {}
            found = contest(
                f"materialize to {name}",
                {
                    "stock": (materialize, data, store, "stock"),
                    "feast": (materialize, data, ours_of(name, store, "feast"), "millrace"),
                    "compact": (materialize, data, ours_of(name, store, "compact"), "millrace"),
                },
                after=lambda who, of=name, found=sizes_of_file: found.update(
                    {who: bytes_of(of, data, redis, postgres)}
                ),
            )
            for who, result in found.items():
                speed = f"{sizes.online_entities / result.seconds:,.0f}"
                a_row = f"{sizes_of_file[who] / sizes.online_entities:,.0f}"
                rows.append(
                    [
                        name,
                        CONTENDERS[who],
                        f"{sizes.online_entities:,}",
                        f"{result.seconds:.2f}",
                        speed,
                        a_row,
                        f"{result.peak_mb:,.0f}",
                    ]
                )
            for layout, wanted in (("feast", 5), ("compact", 10)):
                ratio = found["stock"].seconds / found[layout].seconds
                ratios[f"materialize_{name}_{layout}_over_stock"] = 1 / ratio
                goals.append(
                    Goal(
                        f"materialize to {name}, layout {layout}, stock's time over ours",
                        f"{ratio:.1f}",
                        f">= {wanted}",
                        ratio >= wanted,
                    )
                )
            if name == "redis" and sizes.many_online_entities:
                compact = ours_of(name, store, "compact")
                report_many(folder, sizes, compact, found["compact"], rows, goals)
    title = f"materialize, {N_FEATURES} features"
    return Report(
        table(
            [
                *(title, "engine and layout", "entities", "seconds", "entities/s"),
                *("bytes an entity", "peak MB"),
            ],
            rows,
        ),
        ratios,
        goals,
    )


def report_many(
    folder: Path,
    sizes: Sizes,
    store: dict[str, Any],
    few: Measured,
    rows: list[list[str]],
    goals: list[Goal],
) -> None:
    """Ten times as many entities into Redis."""
    with lend(folder, "many") as data:
        in_fresh_process(make_online, data, sizes.many_online_entities)
        many = in_fresh_process(materialize, data, store, "millrace")
    say(
        f"materialize: redis: {sizes.many_online_entities:,}: {many.seconds:.2f} s, "
        f"{many.peak_mb:,.0f} MB"
    )
    speed = f"{sizes.many_online_entities / many.seconds:,.0f}"
    rows.append(
        [
            "redis",
            CONTENDERS["compact"],
            f"{sizes.many_online_entities:,}",
            f"{many.seconds:.2f}",
            speed,
            "",
            f"{many.peak_mb:,.0f}",
        ]
    )
    growth = (many.seconds / sizes.many_online_entities) / (few.seconds / sizes.online_entities)
    goals.append(
        Goal(
            (
                f"{sizes.many_online_entities:,} to redis, time per entity over that of "
                f"{sizes.online_entities:,}"
            ),
            f"{growth:.2f}",
            "<= 1.1 (linear)",
            growth <= 1.1,
        )
    )
    goals.append(
        Goal(
            f"{sizes.many_online_entities:,} to redis, peak MB",
            f"{many.peak_mb:,.0f}",
            "<= 2,000",
            many.peak_mb <= 2_000,
        )
    )


CONTENDERS = {
    "stock": "stock Feast",
    "feast": "millrace, layout: feast",
    "compact": "millrace, layout: compact",
}


def online_stores(data: Path, redis: Any, postgres: Any) -> dict[str, dict[str, Any]]:
    """Settings of each of Feast's online stores."""
    return {
        "sqlite": {"type": "sqlite", "path": str(data / "online.db")},
        "redis": {"type": "redis", "connection_string": f"{redis.host}:{redis.port}"},
        "postgres": {
            "type": "postgres",
            "host": postgres.host,
            "port": postgres.port,
            "database": "postgres",
            "user": "postgres",
            "password": "",
            "sslmode": "disable",
        },
    }


def ours_of(name: str, store: dict[str, Any], layout: str) -> dict[str, Any]:
    """Our store over the same server or file, in a layout."""
    return {**store, "type": LEAN[name], "layout": layout}


def bytes_of(name: str, data: Path, redis: Any, postgres: Any) -> int:
    """What an online store takes.

    Its file, the memory of its keys, or its tables with their indexes.
    """
    if name == "sqlite":
        return (data / "online.db").stat().st_size
    if name == "redis":
        from redis import Redis

        client = Redis(redis.host, redis.port)
        return int(client.info("memory")["used_memory_dataset"])
    import psycopg

    where = {"host": postgres.host, "port": postgres.port, "user": "postgres"}
    with psycopg.connect(dbname="postgres", **where) as connection:
        tables = "select sum(pg_total_relation_size(relid)) from pg_stat_user_tables"
        return int(connection.execute(tables).fetchone()[0])


def make_online(data: Path, entities: int) -> Measured:
    """Write one row for each entity: 8 integers, 8 floats, 4 texts."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = np.random.default_rng(7)
    values: dict[str, Any] = {name: generator.integers(0, 1000, entities) for name in FEATURES[:8]}
    values |= {name: generator.random(entities) for name in FEATURES[8:16]}
    values |= {
        name: [f"label {number}" for number in generator.integers(0, 1000, entities)]
        for name in FEATURES[16:]
    }
    at = instants(generator.integers(0, DAYS * 86_400_000_000, entities))
    pq.write_table(
        pa.table({"user_id": np.arange(entities), "event_timestamp": at, **values}),
        data / "features.parquet",
    )
    return Measured(0, 0)


ASKED = [{"user_id": number} for number in range(100)]


@contextmanager
def served(data: Path, online_store: dict[str, Any], who: str) -> Iterator[Any]:
    """Open the store of one contender."""
    views = [("user", "user_id", "features", FEATURES)]
    ours = {"batch_engine": ENGINE} if who == "millrace" else {}
    with feast_store(
        data,
        views,
        {**ASOF, "warehouse": str(data)} if ours else {"type": "file"},
        online_store,
        **ours,
    ) as store:
        yield store


def materialize(data: Path, online_store: dict[str, Any], who: str) -> Measured:
    """Empty the online store, then fill it."""
    with served(data, online_store, who) as store:
        objects = [*store.list_entities(), *store.list_feature_views()]
        store.teardown()
        store.apply(objects)
        measured = clock(lambda: store.materialize(START - DAY, START + (DAYS + 1) * DAY))
        return measured._replace(
            made=sum(store.get_online_features(["features:f0"], ASKED).to_dict()["f0"])
        )


# --- online reads ---


def read_case(folder: Path, sizes: Sizes) -> Report:
    """Some random entities, all features: p50 and p99 of many calls."""
    rows, ratios, goals = [], {}, []
    with lend(folder, "online") as data, redis_server() as redis, postgres_server() as postgres:
        in_fresh_process(make_online, data, sizes.online_entities)
        stores = online_stores(data, redis, postgres)
        other = {
            "sqlite": {"path": str(data / "compact.db")},
            "redis": {"connection_string": f"{redis.host}:{redis.port},db=1"},
        }
        for name, stock in ((name, stores[name]) for name in other):
            lean = ours_of(name, stock, "feast")
            compact = ours_of(name, stock, "compact") | other[name]
            for store in (stock, compact):
                in_fresh_process(materialize, data, store, "millrace")
            contenders: dict[str, tuple[Any, ...]] = {
                "stock Feast": (read_through_feast, data, stock, sizes, False),
                "Feast on our store": (read_through_feast, data, lean, sizes, False),
                "Feast on our store, compact": (read_through_feast, data, compact, sizes, False),
                "stock Feast, to_dict": (read_through_feast, data, stock, sizes, True),
                "online_features": (read_through_client, data, lean, sizes),
                "online_features, compact": (read_through_client, data, compact, sizes),
            }
            found = take_turns(contenders, sizes.rounds)
            rows += latency_rows(f", {name}", found)
            p50 = {who: statistics.median(taken[100]) for who, taken in found.items()}
            for who, peer, wanted in READ_GOALS:
                ratio = p50[who] / p50[peer]
                ratios.setdefault(f"read_{name}_{who}", ratio)
                goals.append(
                    Goal(
                        f"{who}, {name}, 100 rows, x {peer}",
                        f"{ratio:.2f}",
                        f"<= {wanted}",
                        ratio <= wanted,
                    )
                )
            say(f"read: {name}: " + ", ".join(f"{who} {ms:.2f} ms" for who, ms in p50.items()))
    return Report(
        table(["online read, rows x features", "contender", "p50 ms", "p99 ms"], rows),
        ratios,
        goals,
    )


LEAN = {
    "sqlite": f"{OURS}.online.SqliteOnlineStore",
    "redis": f"{OURS}.online_redis.RedisOnlineStore",
    "postgres": f"{OURS}.online_postgres.PostgresOnlineStore",
}
COUNTS = (1, 100, 500)
READ_GOALS = (  # the first of each contender has the ceiling in floors.json
    ("Feast on our store", "stock Feast", 0.6),
    ("online_features", "stock Feast, to_dict", 0.25),
    ("online_features, compact", "stock Feast, to_dict", 0.15),
    ("online_features, compact", "stock Feast", 0.15),
)


def take_turns(
    contenders: dict[str, tuple[Any, ...]], rounds: int, counts: Sequence[int] = COUNTS
) -> dict[str, dict[int, list[float]]]:
    """Let all read in turn; return the milliseconds of every call, by number of rows."""
    found: dict[str, dict[int, list[float]]] = {
        who: {count: [] for count in counts} for who in contenders
    }
    for _ in range(rounds):
        for who, contender in contenders.items():
            for count, taken in in_fresh_process(*contender).made.items():
                found[who][count] += taken
    return found


def latency_rows(
    where: str, found: dict[str, dict[int, list[float]]], counts: Sequence[int] = COUNTS
) -> list[list[str]]:
    """Lay out p50 and p99."""
    cuts = {
        (count, who): statistics.quantiles(taken[count], n=100)
        for count in counts
        for who, taken in found.items()
    }
    return [
        [
            f"{LABELS.get(count, count)} x {N_FEATURES}{where}",
            who,
            f"{cut[49]:.2f}",
            f"{cut[98]:.2f}",
        ]
        for (count, who), cut in cuts.items()
    ]


def read_through_feast(
    data: Path,
    online_store: dict[str, Any],
    sizes: Sizes,
    to_dict: bool,  # noqa: FBT001
) -> Measured:
    """`get_online_features(...)`: a protobuf message, or the values in it."""
    with served(data, online_store, "millrace") as store:
        features = [f"features:{name}" for name in FEATURES]
        if None in store.get_online_features(features, ASKED).to_dict()["f0"]:
            sys.exit("read: nothing is there")
        if to_dict:
            return Measured(
                0,
                0,
                latencies(lambda rows: store.get_online_features(features, rows).to_dict(), sizes),
            )
        return Measured(
            0, 0, latencies(lambda rows: store.get_online_features(features, rows), sizes)
        )


def read_through_client(data: Path, online_store: dict[str, Any], sizes: Sizes) -> Measured:
    """`feature_repo.online_features(...)`, on a home made for it."""
    from unittest.mock import patch

    from feature_repo import client

    with served(data, online_store, "millrace") as store:
        home = Path(store.config.repo_path)
        (home / "feast").mkdir()
        (home / "feast" / "registry.db").write_bytes((home / "registry.db").read_bytes())
        features = [f"features:{name}" for name in FEATURES]
        with patch.object(client, "repo_config", return_value=store.config):
            if client.online_features(features, ASKED, home)["features__f0"].null_count():
                sys.exit("read: nothing is there")
            return Measured(
                0, 0, latencies(lambda rows: client.online_features(features, rows, home), sizes)
            )


def serve_case(folder: Path, sizes: Sizes) -> Report:
    """The same over HTTP, one worker: stock Feast, and ours by Feast's route and by our own."""
    rows, ratios, goals = [], {}, []
    with lend(folder, "online") as data, redis_server() as redis:
        in_fresh_process(make_online, data, sizes.online_entities)
        stocks = {
            "sqlite": {"type": "sqlite", "path": str(data / "online.db")},
            "redis": {"type": "redis", "connection_string": f"{redis.host}:{redis.port}"},
        }
        other = {
            "sqlite": {"path": str(data / "compact.db")},
            "redis": {"connection_string": f"{redis.host}:{redis.port},db=1"},
        }
        for name, stock in stocks.items():
            compact = ours_of(name, stock, "compact") | other[name]
            for store in (stock, compact):
                in_fresh_process(materialize, data, store, "millrace")
            contenders: dict[str, tuple[Any, ...]] = {
                "stock Feast": (read_through_server, data, stock, sizes, FEASTS_ROUTE),
                "millrace, Feast's route": (
                    read_through_server,
                    data,
                    compact,
                    sizes,
                    FEASTS_ROUTE,
                ),
                "millrace, /features": (read_through_server, data, compact, sizes, "/features"),
            }
            counts = [*COUNTS, CLIENTS, *(processor_of(count) for count in (*COUNTS, CLIENTS))]
            found = take_turns(contenders, sizes.rounds, counts)
            p50 = {
                who: {count: statistics.median(times) for count, times in taken.items()}
                for who, taken in found.items()
            }
            for row, (count, who) in zip(
                latency_rows(f", {name}", found, (*COUNTS, CLIENTS)),
                itertools.product((*COUNTS, CLIENTS), found),
                strict=True,
            ):
                rows.append([*row, f"{p50[who][processor_of(count)]:.2f}"])
            for who, (what, count) in itertools.product(OURS_SERVED, SERVED_GOALS.items()):
                ratio = p50[who][count] / p50["stock Feast"][count]
                ratios[f"serve_{name}_{who}_{count}_over_stock"] = ratio
                goals.append(
                    Goal(
                        f"{who}, {name}, {what}, x stock Feast",
                        f"{ratio:.2f}",
                        "<= 0.5",
                        ratio <= 0.5,
                    )
                )
            say(f"serve: {name}: " + ", ".join(f"{who} {p50[who][100]:.2f} ms" for who in p50))
    header = ["feature server, rows x features", "contender", "p50 ms", "p99 ms", "processor ms"]
    return Report(table(header, rows), ratios, goals)


FEASTS_ROUTE, N_CLIENTS = "/get-online-features", 64
CLIENTS = -1  # in place of a number of rows
LABELS = {CLIENTS: f"{N_CLIENTS} clients, 100"}
OURS_SERVED = ("millrace, Feast's route", "millrace, /features")


def processor_of(count: int) -> int:
    """The measure of the server's processor time of requests of some rows."""
    return count - 1_000


SERVED_GOALS = {
    "100 rows": 100,
    "100 rows, processor": processor_of(100),
    f"{N_CLIENTS} clients": CLIENTS,
}


def read_through_server(
    data: Path, online_store: dict[str, Any], sizes: Sizes, route: str
) -> Measured:
    """POST, the answer parsed; the server is Feast's, of our stores with our guards and route."""
    import httpx
    import yaml

    features = [f"features:{name}" for name in FEATURES]
    with served(data, online_store, "millrace") as store:
        place, address = store.config.repo_path, f"http://127.0.0.1:{free_port()}"
        names = ("project", "provider", "entity_key_serialization_version")
        settings = {name: getattr(store.config, name) for name in names}
        settings |= {
            "registry": f"{place}/registry.db",
            "online_store": online_store,
            "offline_store": {**ASOF, "warehouse": str(data)},
        }
        (place / "feature_store.yaml").write_text(yaml.safe_dump(settings), "utf-8")
        if str(online_store["type"]).startswith(OURS):
            shutil.copy(ROOT / "feature_repo" / "static_artifacts.py", place)
        command = [
            Path(sys.executable).with_name("feast"),
            *("-c", place, "serve", "--no-access-log", "--max-requests", "0"),
            *("--port", address.rsplit(":", 1)[1]),
        ]
        with (
            running(command, lambda: answers(f"{address}/health")),
            httpx.Client(timeout=60) as client,
        ):

            def read(rows: list[dict[str, int]], client: httpx.Client = client) -> Any:
                asked = {
                    "features": features,
                    "entities": {"user_id": [row["user_id"] for row in rows]},
                }
                return client.post(f"{address}{route}", json=asked).raise_for_status().json()

            read(ASKED)
            found: dict[int, list[float]] = {}
            for count in (*COUNTS, CLIENTS):
                before = used_by_children()
                found[count] = (
                    together(read, sizes)
                    if count == CLIENTS
                    else latencies(read, sizes, [count])[count]
                )
                used = 1000 * (used_by_children() - before)
                found[processor_of(count)] = [used / len(found[count])]
            return Measured(0, 0, found)


def used_by_children() -> float:
    """Seconds of processor time that the living children of this process have taken, and theirs."""
    import psutil

    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(taken.user + taken.system for taken in times)


def together(read: Callable[..., Any], sizes: Sizes) -> list[float]:
    """Let many clients ask for 100 rows each at once; the milliseconds of each call."""
    import httpx

    taken: list[float] = []

    def ask(number: int) -> None:
        rows = [{"user_id": (number * 100 + row) % sizes.online_entities} for row in range(100)]
        with httpx.Client(timeout=60) as client:
            for _ in range(max(sizes.calls // 30, 2)):
                start = time.perf_counter()
                read(rows, client)
                taken.append(1000 * (time.perf_counter() - start))

    threads = [Thread(target=ask, args=(number,)) for number in range(N_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def latencies(
    read: Callable[[list[dict[str, int]]], Any], sizes: Sizes, counts: Sequence[int] = COUNTS
) -> dict[int, list[float]]:
    """Read random entities many times; the milliseconds of each call, for each number of rows."""
    import numpy as np

    generator, found = np.random.default_rng(7), {}
    for count in counts:
        taken = []
        for _ in range(sizes.calls):
            rows = [
                {"user_id": int(number)}
                for number in generator.integers(0, sizes.online_entities, count)
            ]
            start = time.perf_counter()
            read(rows)
            taken.append(1000 * (time.perf_counter() - start))
        found[count] = taken
    return found


CASES: dict[str, Callable[[Path, Sizes], Report]] = {
    "join": join_case,
    "zones": zones_case,
    "materialize": materialize_case,
    "read": read_case,
    "serve": serve_case,
}

if __name__ == "__main__":
    sys.exit(main())
