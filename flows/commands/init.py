"""`millrace init`: look at a file, propose its source file, show what a run would make of it."""

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from transforms.staging.preview import Preview
    from transforms.staging.proposing import Head, Proposal

KEYS = ("record-id", "author-id", "subject-id", "event-timestamp", "known", "text", "label")
DEPLOYMENT = """
  - name: {name}
    description: Load what is new of {name}, stage it, compute its features, bring the online store up to date.
    entrypoint: flows.pipeline.pipeline
    tags: [millrace, text]
    parameters:
      parameters:
        source: {source}
    # a second run waits for the first: both would work on the same home
    concurrency_limit:
      limit: 1
      collision_strategy: ENQUEUE
    schedules:
      - slug: schedule
        cron: "{cron}"
        timezone: UTC
        active: true
    work_pool:
      name: local
"""  # noqa: E501


def _key_options(command: Any) -> Any:
    for key in reversed(KEYS):
        command = click.option(
            f"--{key}", metavar="COLUMN", help="A column, or an SQL expression over the row."
            if key != "known"
            else "A column, at_load or at_event: when a row could be known.",
        )(command)  # fmt: skip
    return command


@click.command()
@click.argument("file")
@click.option("--name", help="The source's name. Default: the file's.")
@click.option("--output", metavar="FILE", help="Where to write. Default: NAME.yaml, here.")
@_key_options
@click.option(
    "--dates",
    type=click.Choice(["day-first", "month-first"]),
    help="How to read 01/02/2026, where the file does not show it.",
)
@click.option("--yes", is_flag=True, help="Take what is proposed without asking.")
@click.option("--force", is_flag=True, help="Write over an existing source file.")
@click.option(
    "--deploy", metavar="CRON", help='Add a deployment to prefect.yaml, here: "0 * * * *".'
)
def init(
    file: str,
    name: str | None,
    output: str | None,
    *,
    dates: str | None,
    yes: bool,
    force: bool,
    deploy: str | None,
    **given: str | None,
) -> None:
    """Look at a FILE of records, and write the source file that says which column is what.

    Each choice has a reason. In a terminal you are asked about those that are unsure; elsewhere, or
    with --yes, they are marked (?) in the file. Dates whose order of day and month nothing shows
    are never guessed. Then the first rows are staged in a temporary folder, to show what a run
    would take and what it would quarantine. Nothing is loaded.

    \b
      millrace init tickets.csv                           look, ask, write tickets.yaml
      millrace init tickets.csv --text body --author-id "lower(customer)"
      millrace init tickets.csv --deploy "0 * * * *"      and run it every hour
    """
    from transforms.errors import SourceError
    from transforms.home import Settings
    from transforms.sources.source import list_files, load_source
    from transforms.staging.preview import stage_heads
    from transforms.staging.proposing import read_head, source_yaml
    from transforms.warehouse.tables import Warehouse

    path = Path(file)
    name = name or _slug(path)
    target = Path(output or f"{name}.yaml")
    if target.exists() and not force:
        message = f"{target}: exists already; say --output, or --force to write over it"
        raise SourceError(message)
    head = read_head(path)
    click.echo(f"{path}: {head.rows.width} columns, the first {head.rows.height:,} rows")
    asks = sys.stdin.isatty() and not yes
    proposal = _proposed(head, dates, {k: v for k, v in given.items() if v}, asks=asks)
    uri = os.path.relpath(path.resolve(), target.resolve().parent)
    target.write_text(source_yaml(head, proposal, name, uri), "utf-8")
    _show(proposal)
    source = load_source(target)
    click.echo(f"\n{target} is written. Of the first rows, a run would")
    _show_preview(stage_heads(source, Warehouse(Settings()), list_files(source).files))
    if deploy:
        _deploy(name, target, deploy)
        click.echo("\nprefect.yaml has the deployment; register it: prefect deploy --all")
    click.echo(f"\nNext: edit {target}, then millrace run --source {target}")


def _proposed(head: "Head", dates: str | None, given: dict[str, str], *, asks: bool) -> "Proposal":
    """Propose, asking a person what is unsure if there is one."""
    from transforms.staging.proposing import OrderError, propose

    try:
        proposal = propose(head, dates, given)
    except OrderError as error:
        if not asks:
            raise
        click.echo(str(error).partition(";")[0])
        dates = click.prompt("dates are", type=click.Choice(["day-first", "month-first"]))
        proposal = propose(head, dates, given)
    if not asks:
        return proposal
    answers = {}
    for key, choice in proposal.choices.items():
        if choice.doubt:
            default = choice.value["column"] if isinstance(choice.value, dict) else choice.value
            answer = click.prompt(f"{key} ({choice.why})", default=default)
            if answer != default:
                answers[key] = answer
    return propose(head, dates, given | answers) if answers else proposal


def _show(proposal: "Proposal") -> None:
    from transforms.staging.proposing import KEYS as ORDER

    for key in ("known", *ORDER, "attributes"):
        if key in proposal.choices:
            value, why, doubt = proposal.choices[key]
            shown = ", ".join(value) if isinstance(value, list) else value
            if isinstance(value, dict):
                shown = " ".join(value.values())
            click.echo(f"{'?' if doubt else ' '} {key:<16} {shown}\n{'':<19}{why}")
    for line in proposal.refused:
        click.echo(f"! {line}")
    if proposal.unused:
        click.echo(f"  {'not used':<16} {', '.join(proposal.unused)}")


def _show_preview(found: "Preview") -> None:
    from transforms.staging.checks import FIXES

    n_rejected = sum(item.n_rows for item in found.rejections)
    click.echo(f"  stage {found.n_staged:,}")
    if found.n_duplicates:
        click.echo(f"  set aside {found.n_duplicates:,} that repeat what their record said before")
    click.echo(f"  quarantine {n_rejected:,}")
    for item in found.rejections:
        fix = f"; {FIXES[item.rule]}" if item.rule in FIXES else ""
        click.echo(
            f"    {item.n_rows:,} x {item.column}: {item.rule}, first in row "
            f"{item.first_row:,}{fix}"
        )
    for line in found.checks:
        click.echo(f"  checks: {line}")


def _deploy(name: str, source: Path, cron: str) -> None:
    """Add a deployment to the `prefect.yaml` of this folder, which is begun where there is none."""
    import yaml

    import flows.importing  # noqa: F401

    # isort: split
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    from transforms.errors import SourceError

    path = Path("prefect.yaml")
    try:
        CronSchedule(cron=cron)
    except ValidationError:
        message = f"--deploy {cron!r}: is not a cron expression, e.g. '0 * * * *' for every hour"
        raise SourceError(message) from None
    text = (
        path.read_text("utf-8") if path.exists() else "name: millrace\npull: null\n\ndeployments:\n"
    )
    content = yaml.safe_load(text) or {}
    deployments = content.get("deployments") or []
    if name in [item.get("name") for item in deployments]:
        message = f"{path}: has a deployment {name} already; edit it there, or say --name"
        raise SourceError(message)
    if list(content)[-1:] != ["deployments"]:
        message = f"{path}: `deployments` has to be its last key; move it to the end"
        raise SourceError(message)
    block = DEPLOYMENT.format(name=name, source=source.as_posix(), cron=cron)
    path.write_text(text.rstrip("\n") + ("\n" if deployments else "") + block, "utf-8")


def _slug(path: Path) -> str:
    """Make a name for a source of a file's name.

    >>> _slug(Path("Support Tickets-2026.csv.gz")), _slug(Path("2026.csv"))
    ('support_tickets_2026', 'source_2026')
    """
    stem = re.sub(r"[^a-z0-9]+", "_", path.name.split(".")[0].lower()).strip("_")
    return stem if stem[:1].isalpha() else f"source_{stem}"
