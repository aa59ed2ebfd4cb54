"""The command line. Commands import heavy packages inside, so that `--help` is quick."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.commands import home_option, open_warehouse, source_option
from flows.commands.backfill import backfill
from flows.commands.backup import backup
from flows.commands.catalog import catalog
from flows.commands.consistency import consistency
from flows.commands.consume import consume
from flows.commands.erase import erase
from flows.commands.features import features
from flows.commands.init import init
from flows.commands.locks import locks
from flows.commands.maintain import maintain
from flows.commands.migrate import migrate
from flows.commands.plan import plan
from flows.commands.quarantine import quarantine
from flows.commands.refresh import refresh
from flows.commands.report import report
from flows.commands.restore import restore
from flows.commands.serve import serve
from flows.commands.sql import sql
from flows.commands.status import status
from flows.commands.trace import trace

if TYPE_CHECKING:
    from flows.stages import PipelineParameters, Summary
    from transforms.home import EngineName
    from transforms.warehouse.tables import Warehouse


class Teaching(click.Group):
    """A group whose commands fail with one line that says what to do, unless `--debug` is set.

    The line ends with the place in docs/reference/errors.md that explains errors of its kind.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; report an expected error in one line, with exit code 1 or 2.

        Exit code 2 means that the source cannot be used.
        """
        from transforms.errors import MillraceError, SourceError

        try:
            return super().invoke(ctx)
        except MillraceError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"millrace: {error} [errors#{error.anchor()}]", err=True)
            ctx.exit(2 if isinstance(error, SourceError) else 1)


@click.group(cls=Teaching, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks and Prefect's log.")
@click.version_option(package_name="millrace")
def main(*, debug: bool) -> None:
    """Turn raw text records into point-in-time-correct features.

    \b
    First steps:
      millrace init FILE                              look at a file, write its source file
      millrace run --source sources/cve_events.yaml   load, check, compute and serve
      millrace consume --source sources/cve_events.yaml  the same for records that are posted
      millrace plan --source sources/cve_events.yaml  show what the next run would do
      millrace status                                 list the tables, their disk use and row counts
      millrace report                                 write an HTML report
      millrace sql "from staging.records"              ask the tables a question; alone, a prompt
      millrace catalog --duckdb FILE                  write a file of views, for dbt and BI tools
      millrace trace --feature author_activity:ID     list the records behind a value
      millrace features                               list every feature and its meaning
      millrace features new NAME                      start a feature file of your own, with a test
      millrace train-demo                             train and score models on the features
      millrace ask "TEXT"                             score a text by the model trained last
      millrace quarantine list                        list what was rejected, and why
      millrace consistency                            compare served values with training
      millrace maintain                               compact tables and delete unneeded files
      millrace backup PLACE                           copy the home; millrace restore makes it
      millrace migrate                                bring a home of an older version up to date
      millrace refresh                                write online what ended since the last run
      millrace locks                                  list the training sets that can be rebuilt
      millrace erase --author ID --dry-run            show what erasing a person would delete
      millrace backfill --dry-run                     list gaps in the features

    A source is described by a small YAML file, which millrace init writes for a file of yours.
    """
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if debug else "CRITICAL")


@main.command()
@source_option
@home_option
@click.option(
    "--engine",
    type=click.Choice(["local", "processes", "spark", "dask"]),
    help="What computes large stages. Default: MILLRACE_ENGINE, else this process (local).",
)
@click.option("--plain", is_flag=True, help="Run the same stages in this process, without Prefect.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the summary as one line of JSON, last."
)
@click.option(
    "--accept-breaking",
    is_flag=True,
    help="Rebuild views even if some of their features were removed or retyped (see plan).",
)
@click.option(
    "--accept-schema",
    is_flag=True,
    help="Accept changed fields of a source with `schema: freeze`, for this run only.",
)
@click.option(
    "--accept-drift",
    is_flag=True,
    help="Stage loads even if they differ too much from earlier ones (see report).",
)
@click.option(
    "--accept-load",
    is_flag=True,
    help="Stage loads even if most rows are rejected, or keys, dates or ids look wrong (see plan).",
)
@click.option(
    "--accept-gap",
    is_flag=True,
    help="Go on with what a topic or table has now, though rows before were deleted unread.",
)
def run(
    source: str,
    home: str | None,
    engine: "EngineName | None",
    *,
    plain: bool,
    as_json: bool,
    **accepted: bool,
) -> None:
    """Run the pipeline: ingest, prepare, featurize, apply, materialize.

    Loads only what is new; a run with nothing new changes nothing. Safe to interrupt and to run
    again.

    \b
    Exit codes:
      0  done, or nothing to do
      1  a file was refused, or a gate, a check or drift stopped the run
      2  the source cannot be used
    """
    from feature_repo.watching.freshness import mark_fresh
    from flows.stages import FilesRefusedError, PipelineParameters, lock_home, pending_work
    from transforms.sources.source import load_source
    from transforms.warehouse.tables import Warehouse

    parameters = PipelineParameters(
        source=str(Path(source).resolve()), home=home, engine=engine, **accepted
    )
    checked = load_source(Path(source))
    warehouse = Warehouse(parameters.settings())
    with lock_home(warehouse.settings.root):
        pending = pending_work(checked, warehouse)
        if pending.nothing:
            mark_fresh(warehouse.settings.root, datetime.now(UTC))
    refused: FilesRefusedError | None = None
    if pending.nothing:
        _echo_notices(pending.notices)
        click.echo(f"{checked.name}: nothing new; {warehouse.settings.root} is up to date")
        summary = _nothing(checked.name, warehouse.settings.root)
    else:
        try:
            summary = _run(parameters, plain=plain)
        except FilesRefusedError as error:
            summary, refused = error.summary, error
        _echo_notices(summary.notices)
        _echo_summary(summary, warehouse)
    if as_json:
        click.echo(summary.model_dump_json())
    if refused:
        raise refused


@main.command("train-demo")
@home_option
def train_demo(home: str | None) -> None:
    """Train models on what was known when each record first arrived; score them on later records.

    Needs scikit-learn: pip install 'millrace[demo]'.
    """
    from flows.demo import train

    click.echo(train(open_warehouse(home)))


@main.command()
@click.argument("text")
@home_option
@click.option("--author", metavar="ID", help="Who wrote it, if known.")
@click.option("--subject", metavar="ID", help="What it is about, if known.")
@click.option(
    "--features",
    "is_listed",
    is_flag=True,
    help="List the features served, and which record the text repeats.",
)
def ask(
    text: str, home: str | None, author: str | None, subject: str | None, *, is_listed: bool
) -> None:
    """Score a text by the model that train-demo left, on features served for the text.

    The text is computed by the code of a run and stored nowhere.

    \b
      millrace ask "A remote attacker can run code; an exploit is public." --subject acme/router
    """
    from feature_repo.client import home_of
    from flows.demo import ask as answer

    line, features = answer(home_of(home), text, author, subject)
    click.echo(line)
    for name in features.columns if is_listed else ():
        click.echo(f"  {name:<52}{features[name][0]}")


def _run(parameters: "PipelineParameters", *, plain: bool) -> "Summary":
    from flows.progress import show_progress

    with show_progress() as report:
        if plain:
            from flows.stages import run_plain

            return run_plain(parameters, report)
        from flows.importing import end_threads
        from flows.pipeline import run_local

        try:
            return run_local(parameters, report)
        finally:
            end_threads()


def _nothing(source: str, home: Path) -> "Summary":
    from feature_repo.online_views import online_views
    from flows.stages import Summary
    from transforms.features.chosen import home_views

    none = dict.fromkeys((view.name for view in home_views(home)), 0)
    unwritten = dict.fromkeys(online_views(home), 0)
    zero = {"files_loaded": 0, "read": 0, "staged": 0, "duplicates": 0, "quarantined": 0}
    return Summary(
        source=source, **zero, features=none, tables={}, materialized=unwritten, seconds={}
    )


def _echo_notices(notices: list[str]) -> None:
    for notice in notices:
        click.echo(f"note: {notice}", err=True)


def _echo_summary(summary: "Summary", warehouse: "Warehouse") -> None:
    click.echo(f"{summary.source}: {summary.files_loaded:,} files, {summary.read:,} rows read")
    click.echo(
        f"  staged {summary.staged:,}, duplicates {summary.duplicates:,}, quarantined "
        f"{summary.quarantined:,}"
    )
    click.echo(
        f"  {'rows':<28}{'new':>12}{'recomputed':>13}{'untouched':>13}{'entities online':>18}"
    )
    for relation, rows in summary.tables.items():
        counts = f"{rows['new']:>12,}{rows['recomputed']:>13,}{rows['untouched']:>13,}"
        online = summary.materialized.get(
            relation.removeprefix("features."),
            "not online" if relation.startswith("features.") else "",
        )
        click.echo(
            f"  {relation:<28}{counts}{online:>18{',' if isinstance(online, int) else ''}}".rstrip()
        )
    click.echo(
        "  " + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary.seconds.items())
    )
    if summary.quarantined:
        click.echo(
            f"  why rows were rejected: millrace quarantine list --home {warehouse.settings.root}"
        )


for command in (
    backfill,
    backup,
    catalog,
    consistency,
    consume,
    erase,
    features,
    init,
    locks,
    maintain,
    migrate,
    plan,
    quarantine,
    refresh,
    report,
    restore,
    sql,
    serve,
    status,
    trace,
):
    main.add_command(command)

if __name__ == "__main__":
    main(sys.argv[1:])
