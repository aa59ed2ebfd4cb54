"""`millrace features`: catalogue, one-line errors, tests of declarations, a starting point."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flows.cli import main

ROOT = Path(__file__).parents[2]
IMPORTS = """
import polars as pl
from transforms.features import *
from transforms.features.entities import author
channel = Entity("channel", key="attributes->>'channel'")
good = GroupBy("good", author, [Count("n_records")], [days(1), days(7)])
"""
A_DAY = "[days(1)]"
# a declaration by the view's name, and the words that its line has
WRONG = {
    "unknown_column": (
        f'GroupBy("unknown_column", channel, [Max("lable", "m")], {A_DAY})',
        "m: ",
        "lable",
        "did you mean label?",
    ),
    "wrong_type": (
        f'GroupBy("wrong_type", channel, [Mean("label", "m")], {A_DAY})',
        "m: Mean takes",
        "'label' is a text",
    ),
    "bad_sql": (
        f'GroupBy("bad_sql", channel, [Mean("length(text", "m")], {A_DAY})',
        "m: 'length(text'",
        "syntax error",
    ),
    "function": (
        f'GroupBy("function", channel, [Max("read_text(text)", "m")], {A_DAY})',
        "m: ",
        "may not call read_text()",
    ),
    "no_name": (
        f'GroupBy("no_name", channel, [Max("length(text) + 1")], {A_DAY})',
        "needs a name; say name=...",
    ),
    "twice": (
        f'GroupBy("twice", channel, [Max("label", "m"), Min("label", "m")], {A_DAY})',
        "m_1d: two features",
        "say name=",
    ),
    "author_activity": (
        f'GroupBy("author_activity", channel, [Count("n")], {A_DAY})',
        "the name is taken",
        "author_activity.py",
    ),
    "no_window": ('GroupBy("no_window", channel, [Count("n")])', "n: has no window; say windows="),
    "entity_days": (
        f'GroupBy("entity_days", channel, [Count("n")], {A_DAY}, online=days(7))',
        "online is a time, which only views of records have",
        "say online=True or online=False",
    ),
    "late_ever": (
        f'GroupBy("late_ever", channel, [Count("n")], {A_DAY}, fresh_within=lifetime)',
        "is no time that a view may be behind; say one such as hours(2) or days(1)",
    ),
    "query_days": (
        'SqlView("query_days", author, "select 1", online=days(7))',
        "online is a time, which only views of records have",
    ),
    "always": (
        'RecordSql("always", {"x": "length(text)"}, online=lifetime)',
        "is no time that a record stays online; say True, False, or a time such as days(30)",
    ),
    "one_window": (
        'GroupBy("one_window", channel, [Count("n")], days(1))',
        "windows is a list, such as",
    ),
    "one_aggregate": (
        f'GroupBy("one_aggregate", channel, Count("n"), {A_DAY})',
        "aggregates is a list, such as",
    ),
    "no_aggregate": (
        f'GroupBy("no_aggregate", channel, ["n_records"], {A_DAY})',
        "'n_records' is no aggregate; write one",
    ),
    "no_entity": (
        f'GroupBy("no_entity", "author", [Count("n")], {A_DAY})',
        "entity is 'author'; give it one, such as Entity(",
    ),
    "no_condition": (
        f'GroupBy("no_condition", channel, [Count("n", where="label")], {A_DAY})',
        "n: where='label' is not a condition",
    ),
    "quantile": (
        f'GroupBy("quantile", channel, [Percentile("length(text)", "p", q=95)], {A_DAY})',
        "p: q=95 is no quantile",
    ),
    "no_length": (
        f'GroupBy("no_length", channel, [TopK("label", "t", k=0)], {A_DAY})',
        "t: k=0 is no length",
    ),
    "key_list": (
        f'GroupBy("key_list", Entity("m", "string_split(text, 1)"), [Count("n")], {A_DAY})',
        "entity m: ",
        "string_split",
    ),
    "list_key": (
        f'GroupBy("list_key", Entity("l", "string_split(text, label)"), [Count("n")], {A_DAY})',
        "entity l",
        "needs many=True",
    ),
    "key_taken": (
        'GroupBy("key_taken", channel, [Count("channel", windows=lifetime)])',
        "channel: every row has a column",
    ),
    "other_entity": (
        f'GroupBy("other_entity", Entity("author", "label"), [Count("n")], {A_DAY})',
        "there is another entity 'author'",
    ),
    "cycle_a": ('RecordSql("cycle_a", {"x": "cycle_b.y + 1"})', "reads cycle_b, which reads it"),
    "cycle_b": ('RecordSql("cycle_b", {"y": "cycle_a.x + 1"})', "reads cycle_a, which reads it"),
    "a_list": (
        """RecordSql("a_list", {"x": "string_split(text, ' ')"})""",
        "x: ",
        "is a list of text",
        "cast it",
    ),
    "nothing": ('RecordSql("nothing", {})', "features are a name and an expression each"),
    "d_unknown": (
        'Derived("d_unknown", [good], {"x": "n_recrds_1d + 1"})',
        "x: ",
        "did you mean n_records_1d?",
    ),
    "d_both": (
        'Derived("d_both", [good, "author_activity"], {"x": "n_records_1d + 1"})',
        "x: ",
        "say which, as good.n_records_1d",
    ),
    "d_sql": ('Derived("d_sql", [good], {"x": "n_records_1d +"})', "x: ", "syntax error"),
    "d_type": (
        'Derived("d_type", [good], {"x": "event_timestamp + n_records_1d"})',
        "x: ",
        "No function matches",
    ),
    "d_view": (
        'Derived("d_view", ["god"], {"x": "1"})',
        "reads god, which is no view; did you mean good?",
    ),
    "d_list": (
        'Derived("d_list", "good", {"x": "1"})',
        "of is 'good'; it is a list, such as [good]",
    ),
    "d_derived": (
        'Derived("d_derived", ["author_tenure"], {"x": "1"})',
        "reads author_tenure, which is no view",
    ),
    "s_view": ('Service("s_view", ["god"])', "reads god, which is no view; did you mean good?"),
    "s_feature": (
        'Service("s_feature", ["good:n_recods_1d", good])',
        "reads good:n_recods_1d",
        "did you mean n_records_1d?",
    ),
    "sql_view": ('SqlView("sql_view", author, "select author_id, nope from versions")', "nope"),
}
CLASSES = """
class NoCompute(RecordView):
    "A view."
    n: int = Field.count("A number.")
class NoFeature(RecordView):
    "A view."
    compute = staticmethod(lambda records: records)
class OtherColumn(RecordView):
    "A view."
    n: int = Field.count("A number.")
    compute = staticmethod(lambda records: records.with_columns(m=1))
class OtherType(RecordView):
    "A view."
    n: int = Field.count("A number.")
    compute = staticmethod(lambda records: records.with_columns(n=pl.lit("one")))
class Raises(RecordView):
    "A view."
    n: int = Field.count("A number.")
    compute = staticmethod(lambda records: records.with_columns(n=pl.col("nope")))
class Online(RecordView, online="30d"):
    "A view."
    n: int = Field.count("A number.")
    compute = staticmethod(lambda records: records.with_columns(n=1))
class ReadsNone(RecordView, reads=("text", "lable")):
    "A view."
    n: int = Field.count("A number.")
    compute = staticmethod(lambda records: records.with_columns(n=1))
"""
WRONG_CLASSES = {
    "no_compute": ("has no compute; write a static method",),
    "online": ("online='30d' is no time that a record stays online; say True",),
    "no_feature": ("has no feature; write one",),
    "other_column": ("n: compute gives no column of this name",),
    "other_type": ("n: compute gives String, declared is Int64",),
    "raises": ("compute fails on no records", "nope"),
    "reads_none": ("lable", "did you mean label?"),
}
WRONG_FILES = {
    "name.py": ("from transforms.features import Cuont\n", "name.py, line 1: ImportError", "Cuont"),
    "python.py": ("x = 1\ndef f(:\n", "python.py, line 2: SyntaxError: invalid syntax"),
    "hop.py": (
        "from transforms.features import days\n\nw = days(1, hop=days(2).length)\n",
        "hop.py, line 3",
        "shorter than its hop",
    ),
    "short.py": (
        "from transforms.features import minutes\nw = minutes(3)\n",
        "short.py, line 2",
        "the shortest is minutes(5)",
    ),
    "raises.py": ("\n\nraise KeyError('a')\n", "raises.py, line 3: KeyError"),
}


def millrace(*arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, ["features", *arguments])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of declarations, as seen from the folder where one is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILLRACE_FEATURES", "features")
    (tmp_path / "features").mkdir()
    return tmp_path / "features"


def test_each_wrong_declaration_has_one_line_that_names_it_and_the_mend(folder: Path) -> None:
    declarations = "".join(
        f"x{number} = {source}\n" for number, (source, *_) in enumerate(WRONG.values())
    )
    (folder / "wrong.py").write_text(IMPORTS + declarations + CLASSES)
    for name, (source, *_) in WRONG_FILES.items():
        (folder / name).write_text(source)
    checked = millrace("check")
    assert checked.exit_code == 1
    lines = checked.stderr.splitlines()
    assert len(lines) == len(WRONG) + len(WRONG_CLASSES) + len(WRONG_FILES), checked.stderr
    expected = {f"features/wrong.py: {view}: ": words for view, (_, *words) in WRONG.items()}
    expected |= {
        f"features/wrong.py: {view}: ": list(words) for view, words in WRONG_CLASSES.items()
    }
    expected |= {f"features/{words[0]}": list(words[1:]) for _, *words in WRONG_FILES.values()}
    for start, words in expected.items():
        (line,) = [line for line in lines if line.startswith(start)]
        assert [word for word in words if word not in line] == [], line


def test_a_mistake_is_said_once_not_by_each_who_reads_it(folder: Path) -> None:
    readers = 'd = Derived("d", [a], {"x": "n_1d"})\ns = Service("s", [a, d])\n'
    (folder / "chain.py").write_text(
        f'{IMPORTS}a = GroupBy("a", channel, [Max("lable", "n")], {A_DAY})\n{readers}'
    )
    assert [line.split(": ")[1] for line in millrace("check").stderr.splitlines()] == ["a"]


def test_wrong_declarations_stop_what_needs_them_and_a_folder_that_is_not_there_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "wrong.py").write_text(IMPORTS + 'x = Service("x", ["god"])\n')
    listed = millrace()
    assert (listed.exit_code, listed.stderr.count("\n")) == (1, 1)
    assert "did you mean good?" in listed.stderr
    monkeypatch.setenv("MILLRACE_FEATURES", "nowhere")
    assert "nowhere: is no folder, and MILLRACE_FEATURES names it" in millrace("check").stderr


def test_a_start_passes_at_once_and_overwrites_nothing(folder: Path) -> None:
    made = millrace("new", "mood")
    assert made.output.splitlines()[:2] == ["features/mood.py", "features/mood.yaml"]
    checked = millrace("check")
    assert (checked.exit_code, checked.output.splitlines()[0]) == (0, "features/mood.py: mood")
    tested = millrace("test", "mood")
    assert (tested.exit_code, tested.output.splitlines()[-1]) == (0, "1 test passed")
    before = (folder / "mood.py").read_text()
    (folder / "lone.yaml").write_text("ours")
    for name, words in (
        ("mood", "mood.py"),
        ("lone", "lone.yaml"),
        ("author_activity", "author_activity.py"),
        ("Bad name", "is no name of a view"),
    ):
        refused = millrace("new", name)
        assert refused.exit_code == 1
        assert words in refused.stderr
    assert (folder / "mood.py").read_text() == before
    assert (folder / "lone.yaml").read_text() == "ours"
    assert sorted(path.name for path in folder.glob("*.*")) == ["lone.yaml", "mood.py", "mood.yaml"]


def test_a_start_makes_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_FEATURES", f"{tmp_path / 'a' / 'b'}{os.pathsep}{tmp_path / 'c'}")
    assert millrace("new", "mood").exit_code == 0
    assert (tmp_path / "a" / "b" / "mood.yaml").is_file()
    monkeypatch.setenv("MILLRACE_FEATURES", "")
    assert "MILLRACE_FEATURES is empty" in millrace("new", "mood").stderr


def test_a_failing_test_says_view_entity_instant_feature_expected_and_got(folder: Path) -> None:
    millrace("new", "mood")
    path = folder / "mood.yaml"
    path.write_text(
        path.read_text().replace(
            "n_records_7d: 2, mean_words_7d: 3", "n_records_7d: 3, mean_words_7d: 3"
        )
    )
    tested = millrace("test")
    assert tested.exit_code == 1
    assert (
        "    mood of author_id=ada at 2024-05-07 00:00:00: n_records_7d: expected 3, got 2\n"
        in tested.output
    )
    assert tested.output.count("expected") == 1
    assert "1 of 1 tests failed" in tested.stderr
    assert "did you mean mood?" in millrace("test", "mod").stderr


def test_no_test_at_all_is_no_success(folder: Path) -> None:
    (folder / "untested.py").write_text(IMPORTS)
    tested = millrace("test")
    assert tested.exit_code == 1
    assert "there is no test in" in tested.stderr


def test_the_catalogue_has_the_users_views_with_their_file(folder: Path) -> None:
    share = "n_records_1d / nullif(n_records_7d, 0)"
    source = f'good_share = Derived("good_share", [good], {{"share": "{share}"}})\n'
    (folder / "ours.py").write_text(
        IMPORTS + source + 'ours_v1 = Service("ours_v1", [good, "good_share:share"])\n'
    )
    lines = millrace().output.splitlines()
    assert [line.split()[1] for line in lines if line.startswith(("good ", "good_share "))] == [
        str(folder / "ours.py")
    ] * 2
    assert any(line.split()[:2] == ["share", "number"] for line in lines)
    assert any(
        line.startswith("author_activity ")
        and line.endswith("transforms/features/views/author_activity.py")
        for line in lines
    )
    assert any(
        line.split()[0] == "ours_v1" and line.endswith("good, good_share:share")
        for line in lines
        if line
    )
    page = millrace("--markdown").output
    assert f"## good\n\n\n\nKey: `author_id`. Declared in `{folder / 'ours.py'}`." in page
    assert "| `share` | number |  | `n_records_1d / nullif(n_records_7d, 0)`. |  |" in page


def test_the_shipped_example_passes_its_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_FEATURES", str(ROOT / "features"))
    assert millrace("check").exit_code == 0
    tested = millrace("test", "cve")
    assert (tested.exit_code, tested.output.splitlines()[-1]) == (0, "3 tests passed"), (
        tested.output
    )


def test_help_teaches() -> None:
    assert [
        word
        for word in ("new", "check", "test", "MILLRACE_FEATURES")
        if word not in millrace("--help").output
    ] == []
