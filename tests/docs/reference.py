"""Write the reference from code: `python -m tests.docs.reference` fills `docs/reference/`."""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent, wrap
from typing import Any

import click
import yaml
from pydantic_settings import BaseSettings

import feature_repo
from feature_repo.guard import ServerSettings
from flows.cli import main
from tests.test_errors import MISTAKES, kinds
from transforms.home import Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "reference"
WIDTH = 100


def commands(
    command: click.Command, parent: click.Context | None = None
) -> Iterator[click.Context]:
    """A command and all that are below it."""
    name = command.name if parent else "millrace"
    command._help_option = None  # a command that was called by itself keeps that call's names
    context = click.Context(
        command, parent, name, terminal_width=WIDTH, max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )  # fmt: skip
    yield context
    if isinstance(command, click.Group):
        for each in sorted(command.commands.values(), key=lambda item: item.name or ""):
            yield from commands(each, context)


def cli_page() -> str:
    """What each command answers to `--help`."""
    parts = ["# Command line\n\nThis page is what `millrace COMMAND --help` prints.\n"]
    for context in commands(main):
        level = "##" if context.parent else "#"
        title = f"\n#{level} `{context.command_path}`\n" if context.parent else ""
        parts.append(f"{title}\n```text\n{context.get_help().rstrip()}\n```\n")
    return "".join(parts)


def settings_table(settings: type[BaseSettings]) -> str:
    """A table of settings, as environment variables."""
    prefix = settings.model_config["env_prefix"]
    lines = ["| variable | meaning | default |", "|---|---|---|"]
    for name, field in settings.model_fields.items():
        default = field.get_default()
        shown = "" if default is None or field.default_factory else f"`{default}`"
        if field.default_factory:
            shown = "the nearest `.millrace`, here or in a parent folder, else `.millrace` here"
        lines.append(f"| `{prefix}{name.upper()}` | {field.description} | {shown} |")
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """Every setting, from the classes that read them."""
    return (
        "# Settings\n\nEvery setting is an environment variable. `--home DIR` is `MILLRACE_HOME` "
        "for one command.\n\n"
        f"{settings_table(Settings)}\n"
        "## Servers\n\nThe feature server and the consumer read these when they start; "
        "[operate](../operate.md#servers) explains them.\n\n"
        f"{settings_table(ServerSettings)}\n"
        "## Kafka\n\nAny setting of librdkafka is read from a variable of its name: "
        "`MILLRACE_KAFKA_SASL_USERNAME` sets `sasl.username`; [topics](../sources.md#topics).\n\n"
        "## OpenLineage\n\nRuns read what OpenLineage's own client does: `OPENLINEAGE_URL`, "
        "`OPENLINEAGE_CONFIG`, `OPENLINEAGE_DISABLED` and others, and `OPENLINEAGE_NAMESPACE`; "
        "[OpenLineage](../lineage.md).\n"
    )


def python_page() -> str:
    """Every public name of `feature_repo`."""
    start = (
        "# Python\n\n`from feature_repo import ...`: what training and serving code calls. "
        "Features are declared with what [declarations](../declarations.md) lists.\n"
    )
    parts = [start]
    for name in feature_repo.__all__:
        found = getattr(feature_repo, name)
        parts.append(f"\n## `{name}`\n{documented(name, found)}")
        if inspect.isclass(found):
            members = [key for key in vars(found) if not key.startswith("_")]
            called = [(key, getattr(found, key, None)) for key in members]
        elif inspect.isroutine(found):
            called = []
        else:  # an object that is called, and has methods
            members = [key for key in vars(type(found)) if not key.startswith("_")]
            called = [(key, getattr(found, key)) for key in members]
        parts += [
            f"\n### `{name}.{key}`\n{documented(f'{name}.{key}', item)}"
            for key, item in called
            if inspect.isroutine(item)
        ]
    return "".join(parts)


def documented(name: str, found: Any) -> str:
    """A signature, and the docstring with its examples as blocks of Python."""
    called = found if inspect.isroutine(found) or inspect.isclass(found) else found.__call__
    signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(called)))
    signature = re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", signature).replace("(self, ", "(")
    if len(f"{name}{signature}") > WIDTH:
        inner, _, returned = signature[1:].rpartition(")")
        arguments = ",\n    ".join(re.split(r", (?![^\[(]*[\])])", inner))
        signature = f"(\n    {arguments},\n){returned}"
    return (
        f"\n```python\n{name}{signature}\n```\n\n{examples_fenced(inspect.getdoc(called) or '')}\n"
    )


def examples_fenced(text: str) -> str:
    """A docstring whose indented and interactive examples are fenced."""
    example = r"(?:^ {4}.*\n(?:\n(?= {4}))?)+|(?:^>>> .*\n(?:^\S.*\n)*)"
    fenced = re.sub(
        example,
        lambda found: f"```python\n{dedent(found[0])}```\n",
        f"{text}\n",
        flags=re.MULTILINE,
    )
    return fenced.rstrip()


def functions_page() -> str:
    """The functions that an expression may call, and those that are refused."""
    lists = yaml.safe_load((ROOT / "transforms" / "functions.yaml").read_text("utf-8"))
    titles = {
        "allowed": "Of one row",
        "aggregates": "Aggregates, in the query of an SqlView",
        "ordered": "Aggregates that need an order by there",
        "windows": "Window functions there, which need one too",
    }
    start = (
        "# Functions\n\nWhat an SQL expression of a source or a feature may call: functions of "
        "their arguments alone, with the same result in every run.\n"
    )
    parts = [start]
    for name, title in titles.items():
        parts.append(f"\n## {title}\n{_block(lists[name])}")
    parts.append("\n## Refused\n")
    for reason, names in lists["refused"].items():
        parts.append(f"\nBecause {reason}:\n{_block(names)}")
    return "".join(parts)


def _block(names: str) -> str:
    lines = wrap(names, WIDTH, break_on_hyphens=False, break_long_words=False)
    return "\n```text\n" + "\n".join(lines) + "\n```\n"


def errors_page() -> str:
    """Every kind of error, with mistakes that end in it."""
    start = (
        "# Errors\n\nAn error is one line: the place, what is wrong there, the mend. It ends with "
        "its kind, such as `[errors#no-files]`, which is a place on this page. `millrace --debug "
        "COMMAND` shows the traceback too. A test makes each mistake that is listed here.\n"
    )
    parts = [start]
    for kind in kinds():
        made = [mistake for mistake in MISTAKES if mistake.kind == kind.anchor()]
        parts.append(f"\n## {kind.anchor()}\n\n{inspect.cleandoc(kind.__doc__ or '')}\n")
        parts += [f"\n{mistake.words}:\n{_block(mistake.said)}" for mistake in made]
    return "".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "settings.md": settings_page,
    "python.md": python_page,
    "functions.md": functions_page,
    "errors.md": errors_page,
}

if __name__ == "__main__":
    for page, made in PAGES.items():
        (FOLDER / page).write_text(made(), "utf-8")
