"""`millrace backfill`: fill gaps in the feature views."""

from datetime import datetime

import click

from flows.commands import Instant, home_option, open_warehouse


@click.command()
@click.option(
    "--from",
    "start",
    type=Instant(),
    metavar="INSTANT",
    help="First instant of the span. Default: the beginning.",
)
@click.option(
    "--to",
    "end",
    type=Instant(),
    metavar="INSTANT",
    help="End of the span, not included. Default: no end.",
)
@click.option(
    "--dry-run", is_flag=True, help="List what is due and estimate the time; write nothing."
)
@home_option
def backfill(
    start: datetime | None, end: datetime | None, home: str | None, *, dry_run: bool
) -> None:
    """Fill gaps in the feature views over a span of time.

    Lists the rows that are missing or were computed by other code, with an estimate of the time.
    Then computes them in chunks that fit the memory limit, one commit each. A stopped backfill
    resumes at the same chunk. Readers see the old tables in the meantime. New records are loaded
    by millrace run.

    \b
      millrace backfill --from 2024-05-01 --to 2024-06-01 --dry-run
    """
    from flows.history import price, read_rates
    from flows.progress import show_progress
    from flows.stages import BackfillParameters, run_backfill
    from transforms.features.backfill import find

    parameters = BackfillParameters.model_validate({"start": start, "end": end, "home": home})
    warehouse = open_warehouse(home)
    found = find(warehouse, parameters.span())
    rates = read_rates(warehouse.settings.root)
    click.echo(f"  {'due':<28}{'rows':>12}{'entities':>12}  from, to")
    for due in found:
        why = "computed by other code" if due.is_other_code else "missing"
        bounds = (
            f"{due.first:%Y-%m-%d %H:%M}, {due.last:%Y-%m-%d %H:%M}, {why}"
            if due.first and due.last
            else ""
        )
        click.echo(f"  {due.relation:<28}{due.n_rows:>12,}{due.n_entities:>12,}  {bounds}")
    n_rows = sum(due.n_rows for due in found)
    if not n_rows:
        click.echo("nothing is missing, and all rows were computed by the current code")
        return
    click.echo(f"  {n_rows:,} rows: {price(rates, 'featurize', n_rows)}")
    if dry_run:
        return
    with show_progress() as report:
        rows = run_backfill(parameters, report)
    for relation, counts in rows.items():
        click.echo(
            f"  {relation:<28}{counts['new']:>12,} new{counts['recomputed']:>13,} "
            f"recomputed{counts['untouched']:>13,} untouched"
        )
