"""A start for declarations of one's own: a file with a view, and a test of it that passes."""

import re
from pathlib import Path
from string import Template

from transforms.errors import DeclarationError
from transforms.features.registry import read_registry
from transforms.features.testing import tests_of
from transforms.home import Settings

NAME = re.compile("[a-z][a-z0-9_]*")
DECLARATION = Template('''"""What an author writes, in features of our own."""

from transforms.features import Count, GroupBy, Mean, days, lifetime
from transforms.features.entities import author

# Features are named <name>_<window>: n_records_7d, mean_words_lifetime. Each is taken of an SQL
# expression over a record's columns, its attributes (attributes->>'name') and features of record
# views. Another entity is declared as channel = Entity("channel", key="attributes->>'channel'").
$name = GroupBy(
    "$name",
    author,
    [
        Count("n_records"),
        Mean("record_quality.n_words", "mean_words"),
    ],
    [days(7), lifetime],
    description="What an author has written lately and so far.",
)
''')
TESTS = Template("""# Tests of $name.py: `millrace features test $name`.
# What a record leaves out is filled in.
a record leaves the window:
  given:
    - {author_id: ada, event_timestamp: 2024-05-01 10:00:00, text: Two words}
    - {author_id: ada, event_timestamp: 2024-05-06 10:00:00, text: These are four words}
  expect:
    - view: $name
      entity: {author_id: ada}
      at: 2024-05-07
      values: {n_records_7d: 2, mean_words_7d: 3}
    - view: $name
      entity: {author_id: ada}
      at: 2024-05-09
      values: {n_records_7d: 1, mean_words_7d: 4, n_records_lifetime: 2}
""")


def write_start(name: str) -> list[Path]:
    """Write a file of declarations and its tests into the first folder of the user's features.

    Their paths.

    Raises `DeclarationError` if the name is none, or is taken.
    """
    folders = Settings().feature_folders
    if not folders:
        message = "MILLRACE_FEATURES is empty; let it name a folder, such as features"
        raise DeclarationError(message)
    if not NAME.fullmatch(name):
        message = (
            f"{name!r} is no name of a view; use small letters, digits and _, such as channel_mood"
        )
        raise DeclarationError(message)
    path = folders[0] / f"{name}.py"
    taken = [str(found) for found in (path, tests_of(path)) if found.exists()]
    if taken or name in read_registry().paths:
        message = (
            f"{name}: is taken by {taken[0] if taken else read_registry().paths[name]}; choose "
            "another name"
        )
        raise DeclarationError(message)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(DECLARATION.substitute(name=name), "utf-8")
    tests_of(path).write_text(TESTS.substitute(name=name), "utf-8")
    return [path, tests_of(path)]
