"""`millrace quarantine`: list rejected rows with the reasons, correct them, and retry them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.commands import home_option, open_warehouse, source_option

if TYPE_CHECKING:
    from transforms.staging.corrections import Broken, Imported

BARS = "▁▂▃▄▅▆▇█"
LONGEST = 300
LISTED = 5
rule_option = click.option("--rule", help="Only rows that broke this rule.")
reveal_option = click.option(
    "--reveal", is_flag=True, help="Show the rows unmasked: they may contain private text."
)


@click.group()
def quarantine() -> None:
    """List rejected rows with the reasons, correct them, and retry them.

    \b
    If the mapping is wrong:
      millrace quarantine list                             count rejected rows by rule
      millrace quarantine show --rule not_a_time           show some, identifiers masked
      (correct the mapping in the source's YAML file)
      millrace quarantine replay --source FILE             move what passes now to staging
      millrace run --source FILE                           compute its features
    If the rows are wrong:
      millrace quarantine export --csv rows.csv --reveal   for someone to fill in `correction`
      millrace quarantine import --source FILE rows.csv    then replay and run
    """


@quarantine.command("list")
@home_option
def list_(home: str | None) -> None:
    """Count rejected rows by rule, with their share of the newest load and the recent trend.

    The trend covers the last eight loads.
    """
    from transforms.staging.quarantine import list_rules

    rules = list_rules(open_warehouse(home)).to_dicts()
    if not rules:
        click.echo("Nothing is in quarantine.")
    for source, of_source in groupby(rules, key=lambda row: str(row["source"])):
        click.echo("\n".join(_rule_lines(source, list(of_source))))


@quarantine.command()
@home_option
@rule_option
@click.option("--limit", default=10, show_default=True, help="How many rows.")
@reveal_option
def show(home: str | None, rule: str | None, limit: int, *, reveal: bool) -> None:
    """Show rejected rows: file, row, column, rule, and what they say, cut if it is long.

    Identifiers (addresses, numbers, keys) are masked unless --reveal; characters that nobody sees
    are written as escapes.
    """
    from transforms.staging.quarantine import show
    from transforms.staging.readable import readable, visible

    rows = show(open_warehouse(home), rule, limit)
    texts = readable([row["payload"] for row in rows], is_revealed=reveal)
    for row, text in zip(rows, texts, strict=True):
        digest = (row["digest"] or "none")[:12]
        click.echo(
            f"{row['source_uri']}, row {row['row_number']}: {visible(row['column'])}: "
            f"{row['rule']} (value {digest})"
        )
        more = f" ... {len(row['payload']):,} bytes in all" if len(text) > LONGEST else ""
        click.echo(f"    {visible(text[:LONGEST])}{more}")


@quarantine.command()
@home_option
@click.option("--csv", "path", required=True, metavar="FILE", help="Where to write them.")
@rule_option
@reveal_option
def export(home: str | None, path: str, rule: str | None, *, reveal: bool) -> None:
    """Write rejected rows to a CSV file, for a colleague to correct.

    The column `correction` is to be filled with the whole row as it should be.

    A value that a spreadsheet would take for a formula gets an apostrophe before it, which import
    takes away again. Without --reveal identifiers are masked, and a correction that still holds a
    mask is refused at import.
    """
    from transforms.staging.corrections import export

    n_rows = export(open_warehouse(home), Path(path), rule, is_revealed=reveal)
    click.echo(f"{path}: {n_rows:,} rows{'' if reveal else ', identifiers masked'}")
    if n_rows:
        click.echo(f"Next: fill `correction`, then millrace quarantine import --source FILE {path}")


@quarantine.command("import")
@click.argument("path", metavar="CSV")
@source_option
@home_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check the file and show which corrections would pass; change nothing.",
)
def import_(path: str, source: str, home: str | None, *, dry_run: bool) -> None:
    """Import corrections of rejected rows; a replay then reads them in place of the rows.

    The file is one that export wrote, with `correction` filled in.

    Raw keeps every row as it came. All corrections are taken or none; of several for a row the
    newest counts.
    """
    from flows.stages import lock_home
    from transforms.sources.source import load_source
    from transforms.staging.corrections import import_corrections

    checked, warehouse = load_source(Path(source)), open_warehouse(home)
    with lock_home(warehouse.settings.root):
        imported = import_corrections(Path(path), checked, warehouse, is_dry=dry_run)
    click.echo("\n".join(_import_lines(imported, is_dry=dry_run)))
    if imported.n_new and not dry_run:
        click.echo(f"Next: millrace quarantine replay --source {source}")


@quarantine.command()
@source_option
@home_option
@click.option(
    "--accept-load",
    is_flag=True,
    help="Stage what passes even if its keys, dates or ids look wrong.",
)
def replay(source: str, home: str | None, *, accept_load: bool) -> None:
    """Retry the rejected rows of a source with its current mapping and the corrections."""
    from flows.stages import lock_home
    from transforms.sources.source import load_source
    from transforms.staging.quarantine import replay

    checked, warehouse = load_source(Path(source)), open_warehouse(home)
    with lock_home(warehouse.settings.root):
        tried = replay(checked, warehouse, accept_load=accept_load)
    click.echo(
        f"{tried.read:,} tried: {tried.staged:,} staged, {tried.duplicates:,} duplicates, "
        f"{tried.quarantined:,} stay in quarantine"
    )
    if tried.staged:
        click.echo(f"Next: millrace run --source {source}   brings them into the features")


def sparkline(counts: Sequence[int]) -> str:
    """Draw counts as bars of up to eight eighths; a point is none at all.

    >>> sparkline([0, 2, 8])
    '·▂█'
    """
    highest = max(counts, default=0)
    return "".join(BARS[(count * (len(BARS) - 1)) // highest] if count else "·" for count in counts)


def _rule_lines(source: str, rules: list[dict[str, Any]]) -> Iterator[str]:
    n_waiting, n_read = sum(row["n_rows"] for row in rules), rules[0]["n_read"]
    yield (
        f"{source}: {n_waiting:,} of {n_read:,} rows read wait in quarantine "
        f"({n_waiting / n_read:.2%})"
    )
    yield (
        f"  {'rows':>9}  {'of newest load':>14}  {'column':<18}{'rule':<28}{'files':>5}  the last "
        "loads"
    )
    for row in rules:
        trend = row["n_rows_by_load"]
        share = trend[-1] / row["n_read_by_load"][-1] if row["n_read_by_load"][-1] else 0.0
        loads = f"{sparkline(trend)}  {' '.join(f'{count:,}' for count in trend)}"
        yield (
            f"  {row['n_rows']:>9,}  {share:>14.2%}  "
            f"{row['column']:<18}{row['rule']:<28}{row['n_files']:>5}  {loads}"
        )


def _import_lines(imported: "Imported", *, is_dry: bool) -> Iterator[str]:
    verb = "would be taken" if is_dry else "taken"
    same = imported.n_corrections - imported.n_new
    yield f"{imported.n_corrections:,} corrections: {imported.n_new:,} {verb}" + (
        f", {same:,} change nothing" if same else ""
    )
    if imported.n_new:
        yield f"  {imported.n_new - len(imported.broken):,} pass the rules"
    yield from _broken_lines(imported.broken)


def _broken_lines(broken: "list[Broken]") -> Iterator[str]:
    for (column, rule), count in Counter((item.column, item.rule) for item in broken).most_common():
        rows = [item.row for item in broken if (item.column, item.rule) == (column, rule)]
        more = ", ..." if count > LISTED else ""
        yield (
            f"  {count:,} will still break {column}: {rule} (row "
            f"{', '.join(map(str, rows[:LISTED]))}{more})"
        )
