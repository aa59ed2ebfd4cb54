"""What a run would load, stage, compute and invalidate; nothing is written."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from flows.history import read_rates
from transforms.sources.source import Source, list_files
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

if TYPE_CHECKING:
    from transforms.staging.preview import Look

ONLINE = "online "


class Step(NamedTuple):
    """A table that a run would change, and why.

    All numbers are estimates: 0 rows are unknown; seconds and bytes are None where no past run
    tells them.
    """

    relation: str
    rows: int
    seconds: float | None
    n_bytes: float | None
    why: str


class Planned(NamedTuple):
    """What a run would do, table by table, and what would stop it."""

    steps: list[Step]
    breaking: list[str]
    notices: list[str]
    refused: list[str]
    fields: list[str]
    checks: list[str]


def plan_run(source: Source, warehouse: Warehouse) -> Planned:
    """Find what a run would do; rows not loaded yet are estimated from those in the home."""
    from transforms.features.build import breaking_changes
    from transforms.sources.ingest import pending_files
    from transforms.staging.checks import waiting
    from transforms.staging.preview import look_at_fields, stage_heads

    found = pending_files(source, warehouse)
    n_bytes = sum(new.n_bytes for new in found.files)
    rates = read_rates(warehouse.settings.root)

    def step(relation: str, stage: str, rows: int, why: str) -> Step:
        seconds = rates[stage].estimate(rows) if stage in rates else None
        a_row = _bytes_a_row(relation, warehouse)
        return Step(relation, rows, seconds, None if a_row is None else rows * a_row, why)

    steps = []
    n_loaded = found.n_rows or _rows_of_bytes(source, warehouse, n_bytes)
    is_loading = bool(found.files or found.n_rows)
    if is_loading:
        steps.append(
            step(
                "raw.records",
                "ingest",
                n_loaded,
                f"{len(found.files):,} files, {n_bytes / 1e6:,.1f} MB"
                if found.files
                else _why(source),
            )
        )
    n_unstaged, n_staged = _staged(source, warehouse, n_loaded)
    if n_unstaged or is_loading:
        why = f"{n_unstaged:,} raw rows are loaded already" if n_unstaged else "of what is loaded"
        steps.append(step("staging.records", "prepare", n_staged, why))
    for relation, rows, why in _views(
        warehouse, n_staged, is_loading=bool(is_loading or n_unstaged)
    ):
        steps.append(step(relation, "featurize", rows, why))
    gained = {step.relation: step.rows for step in steps}
    for view, n_entities in _online(warehouse, gained).items():
        steps.append(step(f"{ONLINE}{view}", "materialize", n_entities, "entities, at most"))
    looked = (
        look_at_fields(source, warehouse, [new.file for new in found.files])
        if found.files or n_unstaged
        else None
    )
    checks = [line for line in waiting(warehouse) if line.startswith(f"{source.name}: ")]
    checks += (
        stage_heads(source, warehouse, [new.file for new in found.files]).checks
        if found.files
        else []
    )
    return Planned(
        steps,
        breaking_changes(warehouse),
        [*found.notices, *_left_out(warehouse)],
        found.refused,
        _fields(looked) if looked else [],
        checks,
    )


def _why(source: Source) -> str:
    """Say what a run would do with rows of a database or a stream, which are only counted."""
    if source.is_database and source.is_compared:
        return f"rows of {source.uri}, to be compared with those loaded before"
    return f"appended to {source.uri}" if source.is_stream else f"new in {source.uri}"


def _left_out(warehouse: Warehouse) -> list[str]:
    """Name the tables of features that a run does not touch, and why."""
    from transforms.features.build import undeclared
    from transforms.features.chosen import chosen_views, left_out

    off = [
        f"features.{name}: is off in this home, so it is left out; MILLRACE_VIEWS chooses"
        for name in left_out(chosen_views(warehouse.settings.root))
    ]
    return off + [
        f"{relation}: nothing declares it any more; its rows stay until you delete its folder"
        for relation in undeclared(warehouse)
    ]


def _bytes_a_row(relation: str, warehouse: Warehouse) -> float | None:
    """What past runs added to the disk for each row of a table; None if there was no row.

    Online that is for each entity written, again or for the first time.
    """
    from feature_repo.sizes import online_size
    from transforms.upkeep.sizes import table_bytes

    if relation.startswith(ONLINE):
        n_bytes = online_size(warehouse.settings.root).n_bytes
        rates = read_rates(warehouse.settings.root)
        n_rows = rates["materialize"].rows if "materialize" in rates else 0
    else:
        n_bytes, n_rows = table_bytes(warehouse, relation), warehouse.n_rows(relation)
    return n_bytes / n_rows if n_bytes is not None and n_rows else None


def _fields(looked: "Look") -> list[str]:
    """Describe the changed fields of the rows looked at, and whether they would stop a run."""
    where = f"in the first rows of {looked.n_files:,} files, {looked.n_rows:,} rows looked at"
    lines = [f"{change}; {where}" for change in looked.changes]
    stopped = (
        "`schema: freeze` stops the run before it stages; --accept-schema takes it as it is, once"
    )
    return lines + ([stopped] if looked.stops else [])


def _rows_of_bytes(source: Source, warehouse: Warehouse, n_bytes: int) -> int:
    """Estimate the rows of new files from the source's loaded files; 0 if there are none."""
    if not n_bytes or "accounting.files" not in warehouse.versions():
        return 0
    sizes = {file.uri: file.state()[0] for file in list_files(source).files}
    with connect(warehouse) as connection:
        sql = (
            "select source_uri, sum(n_read) from accounting.files where source = $source group by "
            "source_uri"
        )
        read = {
            uri: n
            for uri, n in connection.execute(sql, {"source": source.name}).fetchall()
            if uri in sizes
        }
    n_bytes_loaded = sum(sizes[uri] for uri in read)
    return round(n_bytes * sum(read.values()) / n_bytes_loaded) if n_bytes_loaded else 0


def _staged(source: Source, warehouse: Warehouse, n_loaded: int) -> tuple[int, int]:
    """Count unstaged raw rows; estimate the versions that they and new rows will make.

    The estimate is the share of raw rows that were staged so far.
    """
    from transforms.staging.prepare import n_unstaged

    unstaged, n_raw = n_unstaged(source, warehouse), warehouse.n_rows("raw.records")
    n_before = n_raw - unstaged
    share = warehouse.n_rows("staging.records") / n_before if n_before else 0.0
    return unstaged, round((unstaged + n_loaded) * share)


def _views(warehouse: Warehouse, n_staged: int, *, is_loading: bool) -> list[tuple[str, int, str]]:
    """List the views that would gain rows: how many, at today's rows per version, and why."""
    from transforms.features.build import pending_versions
    from transforms.features.chosen import chosen_views

    n_versions = warehouse.n_rows("staging.records")
    planned = []
    for view in chosen_views(warehouse.settings.root):
        pending, why = pending_versions(view, warehouse)
        n_there = warehouse.n_rows(view.relation)
        rows_per_version = n_there / n_versions if n_versions else 0.0
        if pending or is_loading:
            reason = f"{pending:,} staged versions: {why}" if pending else "of what is staged"
            planned.append((view.relation, round((pending + n_staged) * rows_per_version), reason))
    return planned


def _online(warehouse: Warehouse, gained: Mapping[str, int]) -> dict[str, int]:
    """Count the rows to come of views that a run writes online: an upper bound of the entities.

    These are the rows that the view gains, and all that may stay online if it is behind.
    """
    from feature_repo.online import due_views
    from feature_repo.online_views import online_views

    now = datetime.now(UTC)
    due = due_views(warehouse, now)
    return {
        view: gained.get(relation, 0) + (_n_staying(warehouse, view, now) if view in due else 0)
        for view in online_views(warehouse.settings.root)
        if (relation := f"features.{view}") in gained or view in due
    }


def _n_staying(warehouse: Warehouse, view: str, now: datetime) -> int:
    """Count the rows of a view that may be online: all, or those within its time there."""
    from transforms.features.registry import view_of

    stay, relation = view_of(view).online_for, f"features.{view}"
    if stay is None:
        return warehouse.n_rows(relation)
    with connect(warehouse, of=(relation,)) as connection:
        sql = f"select count(*) from {relation} where event_timestamp >= $oldest"
        ((n_rows,),) = connection.execute(sql, {"oldest": now - stay}).fetchall()
        return int(n_rows)
