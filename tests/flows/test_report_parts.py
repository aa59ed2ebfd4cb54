"""Parts of the report without a browser: code of declarations, readers, the lineage's layout."""

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from flows.report.cards import cards
from flows.report.charts import lateness
from flows.report.code import N_LINES, Code, code_of
from flows.report.lineage import HEIGHT, WIDTH, Named, lineage

NOW = datetime(2024, 3, 1, 12, tzinfo=UTC)


def code(folder: Path, name: str, text: str, *others: str) -> list[Code]:
    path = folder / "mood.py"
    path.write_text(dedent(text), "utf-8")
    return code_of(name, path, [name, *others])


def test_code_is_the_declaration_with_what_it_uses(tmp_path: Path) -> None:
    (tmp_path / "gap.sql").write_text("select 1 -- <b>", "utf-8")
    python, sql = code(
        tmp_path,
        "gap",
        """
        from transforms.features import Entity, GroupBy, SqlView
        UNUSED = 1
        KEY = "attributes->>'<i>'"
        channel = Entity("channel", key=KEY)
        mood = GroupBy("mood", channel, [])
        gap = SqlView("gap", channel, sql="gap.sql")
        burst = Derived("burst", [mood], {})
        """,
        "mood",
        "burst",
    )
    assert python.html.striptags() == (
        "KEY = \"attributes->>'<i>'\" "
        'channel = Entity("channel", key=KEY) '
        'gap = SqlView("gap", channel, sql="gap.sql")'
    )
    assert "&lt;i&gt;" in python.html
    assert '<span class="comment">-- &lt;b&gt;' in sql.html
    assert sql.file == f"{tmp_path.name}/gap.sql"


def test_code_of_a_class_has_its_decorators_and_is_cut_where_it_is_long(tmp_path: Path) -> None:
    lines = "\n".join(f"    n_{number} = {number}" for number in range(N_LINES))
    (found,) = code(tmp_path, "record_mood", f"@kept\nclass RecordMood(RecordView):\n{lines}\n")
    assert found.html.striptags().startswith("@kept class RecordMood")
    assert found.n_left_out == 2


def test_code_under_a_name_that_is_computed_is_not_shown(tmp_path: Path) -> None:
    text = 'for n in (1, 2):\n    globals()[f"mood_{n}"] = GroupBy(f"mood_{n}", channel, [])\n'
    assert code(tmp_path, "mood_1", text) == []
    spelled = (
        'for name in ("mood_1", "mood_2"):\n    globals()[name] = GroupBy(name, channel, [])\n'
    )
    (found,) = code(tmp_path, "mood_1", spelled)
    assert "GroupBy(name" in found.html


def test_each_card_says_what_it_reads_and_who_reads_it(tmp_path: Path) -> None:
    made = {card.name: card for card in cards(tmp_path, NOW, [], [])}
    assert made["triage_v1"].reads == [
        *("author_activity", "author_tenure", "record_quality", "subject_activity")
    ]
    assert made["author_tenure"].reads == ["author_activity"]
    assert {"activity_v1", "triage_v1"} <= {*made["author_tenure"].read_by}
    assert "author_activity" in made["record_quality"].read_by
    assert all(card.code for card in made.values())
    assert made["author_activity"].fresh == "no run has computed it yet"


@given(st.lists(st.sets(st.integers(0, 30)), max_size=12))
def test_what_is_read_is_left_of_its_reader_and_nothing_is_drawn_over_another(
    reads: list[set[int]],
) -> None:
    named = [
        Named(
            f"n{n}", "", "view", "", [f"n{of}" for of in sorted(of) if of < n], n + 1 == len(reads)
        )
        for n, of in enumerate(reads)
    ]
    drawn = lineage(named)
    at = {node.of.key: node for node in drawn.nodes}
    assert {*at} == {one.key for one in named}
    assert all(at[edge.start].x + WIDTH < at[edge.end].x for edge in drawn.edges)
    assert len(drawn.edges) == sum(of in at for one in named for of in one.reads)
    places = sorted((node.x, node.y) for node in drawn.nodes)
    beside = pairwise(places)
    assert all(x != other_x or y + HEIGHT < other_y for (x, y), (other_x, other_y) in beside)
    assert all(0 <= node.x <= drawn.width - WIDTH for node in drawn.nodes)
    assert all(0 <= node.y <= drawn.height - HEIGHT for node in drawn.nodes)


@given(st.lists(st.floats(0, 1e11), min_size=1))
def test_lateness_has_a_scale_that_grows_and_has_all_of_it(seconds: list[float]) -> None:
    late = [f"late_seconds_{share}" for share in ("p50", "p90", "p99")]
    columns = {"source": "mail", "period": NOW, **dict.fromkeys(late, pl.Series(seconds))}
    drawn = lateness(pl.DataFrame(columns), "day")["encoding"]["y"]["scale"]["domain"]
    assert drawn[0] < drawn[1]
    assert drawn[0] <= max(round(min(seconds)), 1) <= max(round(max(seconds)), 1) <= drawn[1]
