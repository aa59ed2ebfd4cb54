"""`millrace features`: list features; check, test and start declarations."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.commands import home_option

if TYPE_CHECKING:
    from transforms.features.testing import Suite


@click.group(invoke_without_command=True)
@home_option
@click.option("--markdown", is_flag=True, help="As the page docs/features.md.")
@click.pass_context
def features(context: click.Context, home: str | None, *, markdown: bool) -> None:
    """List every feature with its type, range and meaning.

    Marks the views that are off in the home (MILLRACE_VIEWS), and lists when the rows of each of
    its sources could be known.

    Declare features of your own in Python, one file per subject, in `features/` of the checkout or
    in the folders that MILLRACE_FEATURES lists. Nothing else needs editing: the next run computes,
    stores and serves them.

    \b
      millrace features new channel     write a file to start from, and its tests
      millrace features check           report mistakes in the declarations
      millrace features test            run the tests of the declarations, in seconds
      millrace plan --source FILE       show what the next run would compute
    """
    if context.invoked_subcommand:
        return
    from feature_repo.catalogue import catalogue_lines, catalogue_markdown
    from flows.history import read_sources
    from transforms.features.chosen import off_views
    from transforms.home import Settings

    if markdown:
        click.echo(catalogue_markdown(), nl=False)
        return
    root = (Settings(home=Path(home)) if home else Settings()).root
    click.echo("\n".join(catalogue_lines(off_views(root))))
    sources = read_sources(root)
    if sources:
        click.echo("\nsources")
    for name, known in sources.items():
        click.echo(f"  {name:<28}{known}")


@features.command()
@click.pass_context
def check(context: click.Context) -> None:
    """Report each mistake in the declarations in one line: file, view, feature, how to fix it.

    Nothing is computed.

    \b
    Exit code 0: no mistakes.  1: at least one.
    """
    from transforms.features.checking import faults, user_files
    from transforms.features.registry import read_registry

    found = faults()
    for fault in found:
        click.echo(_here(fault), err=True)
    if found:
        context.exit(1)
    registry = read_registry()
    for path in user_files():
        names = [
            name
            for name in (*registry.views, *registry.derived, *registry.services)
            if registry.paths[name] == path
        ]
        click.echo(f"{_here(str(path))}: {', '.join(names) or 'declares nothing'}")
    click.echo(
        f"{len(registry.views)} views, {len(registry.derived)} derived, "
        f"{len(registry.services)} services: all right"
    )


@features.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
def test(names: tuple[str, ...]) -> None:
    """Run the tests of declared features, by file name or test name; all by default.

    `features/channel.yaml` tests `features/channel.py`: each test has records that are `given`, and
    the features that it `expect`s for entities at instants. Views are computed as in a run, in a
    temporary folder; no home is needed.

    \b
    Exit code 0: all tests pass.  1: a test fails, or there are none.
    """
    from transforms.errors import DeclarationError
    from transforms.features.testing import suites

    chosen = suites(names)
    n_failed = sum(_run(suite) for suite in chosen)
    n_tests = sum(len(suite.cases) for suite in chosen)
    if n_failed:
        message = f"{n_failed} of {n_tests} tests failed"
        raise DeclarationError(message)
    click.echo(f"{n_tests} {'test' if n_tests == 1 else 'tests'} passed")


@features.command()
@click.argument("name")
def new(name: str) -> None:
    """Start features of your own: NAME.py with a view, NAME.yaml with a test that passes.

    Existing files are never overwritten.
    """
    from transforms.features.starting import write_start

    for path in write_start(name):
        click.echo(_here(str(path)))
    click.echo(f"Next: edit them, then millrace features check and millrace features test {name}")


def _run(suite: "Suite") -> int:
    """Run the tests of a file, printing a line for each; return how many failed."""
    from transforms.features.registry import registry
    from transforms.features.testing import run_case

    click.echo(_here(str(suite.path)))
    n_failed = 0
    for name, case in suite.cases.items():
        start = time.perf_counter()
        differences = run_case(case, registry())
        n_failed += bool(differences)
        click.echo(
            f"  {'FAILED' if differences else 'passed'}  {name}  "
            f"({time.perf_counter() - start:.1f} s)"
        )
        for difference in differences:
            click.echo(f"    {difference}")
    return n_failed


def _here(line: str) -> str:
    """Make the path that a line begins with relative to the working directory."""
    return line.removeprefix(f"{Path.cwd()}{os.sep}")
