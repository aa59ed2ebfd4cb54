"""`millrace status`: what is in a home, what it takes on disk, and whether it adds up."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from flows.commands import home_option, open_warehouse

if TYPE_CHECKING:
    import polars as pl

    from flows.sizes import HomeSize
    from transforms.warehouse.tables import Warehouse


@click.command()
@home_option
def status(home: str | None) -> None:
    """List the tables of the home and their disk use; check that every row is accounted for.

    \b
    size            data files of the table's newest version
    a row           size / rows
    last 7 days     how much of the size is new; below 0 where it shrank
    older, log      data files of older versions only, and the table's log
    maintain frees  what `millrace maintain` would delete of these now: files
                    that nothing needs, replaced more than 7 days ago
                    (MILLRACE_KEEP_DAYS)

    Exit code 1 if a row is missing from the accounts, a stopped load is waiting, or a view is later
    than its `fresh_within` promises.
    """
    from flows.sizes import measure
    from transforms.errors import ChecksError, MillraceError
    from transforms.features.chosen import off_views
    from transforms.staging.accounting import recount
    from transforms.staging.checks import waiting

    warehouse = open_warehouse(home)
    click.echo(f"{warehouse.settings.root}")
    _echo_sizes(warehouse, measure(warehouse, datetime.now(UTC)))
    if off := off_views(warehouse.settings.root):
        click.echo(
            f"  Off, so not computed: {', '.join(off)}; a run with MILLRACE_VIEWS=all takes them "
            "back."
        )
    counted = recount(warehouse)
    _echo_accounts(counted)
    stopped = waiting(warehouse)
    if stopped:
        raise ChecksError("\n  ".join(stopped))
    wrong = counted.filter(~counted["adds_up"])
    if wrong.height:
        message = (
            f"{wrong.height} load(s) do not add up, first {wrong['load_id'][0]}; run the source "
            "again: an interrupted run is finished"
        )
        raise MillraceError(message)
    click.echo("\n  Everything adds up: read = staged + duplicates + quarantined, in every load.")
    _refuse_late(warehouse)


def _echo_sizes(warehouse: "Warehouse", sizes: "HomeSize") -> None:
    from transforms.upkeep.sizes import in_words

    click.echo(
        f"  {'table':<28}{'version':>8}{'rows':>12}{'size':>10}{'a row':>10}{'last 7 days':>13}"
        f"{'older, log':>12}{'maintain frees':>16}"
    )
    for relation, version in warehouse.versions().items():
        size = sizes.tables[relation]
        a_row = "" if size.a_row is None else in_words(size.a_row)
        click.echo(
            f"  {relation:<28}{version:>8}{size.n_rows:>12,}{in_words(size.n_bytes):>10}"
            f"{a_row:>10}{in_words(size.n_grown):>13}{in_words(size.n_older):>12}"
            f"{in_words(size.n_freed):>16}"
        )
    online = sizes.online
    taken = online.note if online.n_bytes is None else in_words(online.n_bytes)
    grown = "" if sizes.online_grown is None else f"{in_words(sizes.online_grown):>23}"
    click.echo(f"  {f'online store ({online.store})':<48}{taken:>10}{grown}")
    a_record = "" if sizes.a_record is None else f", {in_words(sizes.a_record)} a staged record"
    click.echo(
        f"  The home takes {in_words(sizes.n_bytes)} on disk{a_record}; millrace maintain would "
        f"free {in_words(sizes.n_freed)} now."
    )


def _refuse_late(warehouse: "Warehouse") -> None:
    from feature_repo.watching.freshness import promised_views
    from transforms.errors import StaleError

    now, promised = datetime.now(UTC), promised_views(warehouse.settings.root)
    for item in promised:
        click.echo(f"  {'late ' if item.is_late(now) else 'fresh'}  {item.words(now)}")
    if late := [item.view for item in promised if item.is_late(now)]:
        message = f"late: {', '.join(late)}; run the sources, or see why no run has ended"
        raise StaleError(message)


def _echo_accounts(counted: "pl.DataFrame") -> None:
    click.echo(
        "\n  source                 loads          read        staged    duplicates   quarantined"
    )
    for source, loads in counted.group_by("source", maintain_order=True):
        sums = [
            int(loads[f"n_{name}"].sum())
            for name in ("read", "staged", "duplicates", "quarantined")
        ]
        click.echo(
            f"  {source[0]:<20}{loads.height:>8}" + "".join(f"{count:>14,}" for count in sums)
        )
