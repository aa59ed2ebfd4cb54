"""`millrace consistency`: whether what was served is what a training set says."""

from typing import TYPE_CHECKING

import click

from flows.commands import home_option, open_warehouse

if TYPE_CHECKING:
    import polars as pl


@click.command()
@home_option
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="Logged rows of each service to compare, the newest.",
)
@click.option("--all", "is_all", is_flag=True, help="List features without a difference too.")
def consistency(home: str | None, rows: int, *, is_all: bool) -> None:
    """Compare what was served with what a training set says of the same instants now.

    Served values are logged where MILLRACE_LOG_SERVED says which share of them (1: all), by
    online_features and by the feature server. Nothing is logged without it.

    \b
    missing     served null where training has a value
    extra       served a value where training has null
    differing   both have a value, another one; largest: by how much
    store older            the online store was behind the tables at the read
    record known later     the tables did not have a record at the read
    record corrected       a record has a newer version since
    code changed           other code has computed the view since
    altered online         the tables never had that value for that instant

    The result is kept as table serving.consistency and shown by millrace report. Exit code 1 if a
    value differs.
    """
    from feature_repo.watching.consistency import n_wrong
    from flows.stages import ConsistencyParameters, run_consistency
    from transforms.errors import ConsistencyError

    settings = open_warehouse(home).settings
    found = run_consistency(ConsistencyParameters(home=str(settings.root), rows=rows)).consistency
    if found.is_empty():
        click.echo("nothing was logged; set MILLRACE_LOG_SERVED=1 where values are served")
        return
    _echo(found if is_all else found.filter(found["n_matched"] < found["n_compared"]))
    n_compared = int(found["n_compared"].sum())
    if wrong := n_wrong(found):
        message = f"{wrong:,} of {n_compared:,} served values differ from what training says now"
        raise ConsistencyError(message)
    click.echo(f"{n_compared:,} served values of {found.height} features: all as in training")


def _echo(found: "pl.DataFrame") -> None:
    from feature_repo.watching.consistency import causes_of

    if found.height:
        click.echo(
            f"  {'service':<20}{'feature':<52}{'compared':>9}{'missing':>9}{'extra':>7}"
            f"{'differing':>11}{'largest':>10}   why"
        )
    for row in found.to_dicts():
        largest = row["largest_difference"]
        click.echo(
            f"  {row['service']:<20}{row['view'] + ':' + row['feature']:<52}"
            f"{row['n_compared']:>9,}{row['n_missing']:>9,}{row['n_extra']:>7,}"
            f"{row['n_differing']:>11,}{'' if largest is None else format(largest, '.4g'):>10}"
            f"   {causes_of(row)}".rstrip()
        )
