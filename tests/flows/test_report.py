"""The report page: its numbers, and the page itself in a real browser without a network."""

import html
import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from axe_playwright_python.sync_playwright import Axe
from deltalake import write_deltalake
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, expect

from feature_repo import locks
from flows.report import page as report_page
from flows.report.data import Shown, period_unit, read_shown
from flows.report.features import N_BINS, describe
from flows.report.flow import SLOT, flow
from flows.report.page import N_TABLE_ROWS, chart_script, render, report_path, write_report
from flows.stages import PipelineParameters, run_plain
from tests.flows.conftest import Notes
from transforms.errors import HomeError
from transforms.home import Settings
from transforms.pages import ago, short
from transforms.pages.palette import THEMES
from transforms.schemas.base import Column
from transforms.schemas.staging import AccountedFile, QuarantinedRecord
from transforms.staging.accounting import recount
from transforms.warehouse import publishing
from transforms.warehouse.tables import Warehouse

NOW = datetime(2024, 3, 1, 12, tzinfo=UTC)
HOSTILE = (
    "</script><script>document.title='hacked'</script>"
    """<img src=x onerror="document.title='hacked'">'"&{{ 7 * 7 }}"""
)
MARKS = "g.mark-rect path, g.mark-line path, g.mark-symbol path"
WIDTHS = {"desktop": 1280, "phone": 390}
SECTIONS = (
    "flow",
    "arrivals",
    "quality",
    "drift",
    "fields",
    "quarantine",
    "features",
    "serving",
    "speed",
    "disk",
)


def measured(home: Path, name: str = "") -> None:
    """Add what optional stages would have measured: drift, profiles, fields, languages."""
    months = [datetime(2024, month, 1, tzinfo=UTC) for month in (1, 2, 3)]
    load = pl.DataFrame(
        {
            "source": "notes",
            "load_id": [f"{month:%Y%m%dT%H%M%S}000000-0000" for month in months],
            "loaded_timestamp": months,
        }
    )
    number = {
        "column": f"n_words{name}",
        "kind": "number",
        "bucket_keys": [["p10", "p200"], ["p12", "p201"], ["p220", "0", "n3"]],
    }
    language = {
        "column": f"language{name}",
        "kind": "category",
        "bucket_keys": [["en"], ["en", "de"], [f"fr{name}", "en"]],
    }
    profiles = pl.concat(
        pl.concat([load, pl.DataFrame(column)], how="horizontal") for column in (number, language)
    )
    profiles = profiles.with_columns(
        bucket_counts=pl.Series([[5] * len(keys) for keys in profiles["bucket_keys"]])
    )
    write(
        home,
        "profiles.columns",
        profiles.with_columns(relation=pl.lit("staging.records"), n_rows=10, n_null=0),
    )
    judged = {
        "value": [None, 0.05, 0.61],
        "verdict": ["no_reference", "still", "stop"],
        "n_reference_loads": [0, 1, 2],
    }
    names = pl.DataFrame({"column": [f"n_words{name}", f"language{name}"]}).join(
        pl.DataFrame({"statistic": ["psi", "js_distance"]}), how="cross"
    )
    drift = pl.concat([load, pl.DataFrame(judged)], how="horizontal").join(names, how="cross")
    write(home, "profiles.drift", drift.with_columns(warn=0.1, stop=0.25, n_reference_rows=20))
    fields = pl.DataFrame(
        {
            "field": ["id", "id", f"added{name}"],
            "type": "text",
            "n_rows": 10,
            "change": ["first", "same", "new"],
        }
    )
    write(home, "profiles.fields", pl.concat([load, fields], how="horizontal"))
    texts = {
        "event_timestamp": months * 2,
        "language": ["en", "en", "de", f"fr{name}", "en", "en"],
        "language_score": 0.9,
    }
    write(home, "features.record_text", pl.DataFrame(texts))


def write(home: Path, relation: str, frame: pl.DataFrame) -> None:
    """Write a table as another part of the pipeline would."""
    write_deltalake(
        str(home.joinpath(*relation.split("."))),
        frame.cast({pl.Datetime: pl.Datetime("us", "UTC")}),
        mode="overwrite",
        schema_mode="overwrite",
    )


@pytest.fixture(scope="module")
def plain_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home after two runs of a source, with rows in quarantine; nothing else was measured."""
    folder = tmp_path_factory.mktemp("report")
    notes = Notes(folder / "source")
    for _ in range(2):
        notes.add()
        run_plain(PipelineParameters(source=str(notes.source), home=str(folder / "home")))
    for name in ("profiles", "features/record_text"):
        # as in a home from before these were measured
        shutil.rmtree(folder / "home" / name, ignore_errors=True)
    return folder / "home"


@pytest.fixture(scope="module")
def full_home(plain_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which everything was measured, and that knows a second source."""
    home = Path(shutil.copytree(plain_home, tmp_path_factory.mktemp("full") / "home"))
    second_source(home, "other")
    measured(home)
    features = ["record_quality:n_words", "author_activity:n_records_7d"]
    spine = pa.table({"record_id": ["r1"]})
    locks.register(home, "march", {"features": features, "tables": {}}, spine)
    write_report(Warehouse(Settings(home=home)), now=NOW)
    return home


def second_source(home: Path, name: str) -> None:
    """Book a load of another source, two rows of which are in quarantine."""
    warehouse = Warehouse(Settings(home=home))
    counts = {"n_read": 10, "n_staged": 5, "n_duplicates": 3, "n_quarantined": 2}
    key = {
        "load_id": "20240203T040506000000-0000",
        "source": name,
        "source_uri": f"file:///somewhere/{name}",
    }
    publish(warehouse, AccountedFile, [{**key, **counts}])
    rejected = {
        **key,
        "column": "text",
        "rule": name,
        "schema_version": 1,
        "payload": b"x",
        "loaded_timestamp": NOW,
    }
    publish(warehouse, QuarantinedRecord, [{**rejected, "row_number": number} for number in (1, 2)])


def publish(warehouse: Warehouse, contract: Any, rows: list[dict[str, Any]]) -> None:
    publishing.publish(
        warehouse,
        contract,
        pa.Table.from_pylist(rows, contract.arrow_schema()).to_batches(),
        {f"test {rows[0]['source']}": len(rows)},
    )


@contextmanager
def opened(
    browser: Browser, path: Path, scheme: str = "light", width: int = 1280, asks: str = ""
) -> Iterator[Page]:
    """Open a page with every way out closed; it must neither complain nor ask for anything."""
    context: Any = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        offline=True,
        reduced_motion="reduce",
    )  # type: ignore[arg-type]
    said: list[str] = []
    asked: list[str] = []
    context.route(lambda url: not url.startswith("file:"), lambda route: route.abort())
    shown: Page = context.new_page()
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda request: asked.append(request.url))
    try:
        shown.goto(path.as_uri() + asks)
        shown.locator(f"html[data-drawn={scheme}]").wait_for()
        yield shown
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [
            path.as_uri() + asks.partition("#")[0]
        ]
    finally:
        context.close()


@pytest.mark.parametrize("scheme", list(THEMES))
@pytest.mark.parametrize("width", WIDTHS.values(), ids=list(WIDTHS))
def test_all_charts_are_drawn_and_nothing_is_cut_off(
    browser: Browser, full_home: Path, scheme: str, width: int
) -> None:
    with opened(browser, report_path(full_home), scheme, width) as shown:
        counts = shown.eval_on_selector_all(
            "[data-chart]",
            (
                f"all => all.map(e => [e.id, [...e.querySelectorAll('{MARKS}')].filter(m => "
                "m.getBBox().width).length])"
            ),
        )
        names = {name for name, _ in counts}
        assert {
            "outcomes",
            "volume",
            "lateness",
            "languages",
            "rejected",
            "speed",
            "drift-0",
            "shape-0",
            "quality-n_words",
        } <= names
        assert [name for name, n_marks in counts if not n_marks] == []
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        inside = "all => all.every(e => e.getBoundingClientRect().right <= innerWidth)"
        assert shown.eval_on_selector_all(".chart svg, .flow, .headline > div", inside)
        assert shown.eval_on_selector(".flow svg", "e => e.getBoundingClientRect().width") > 80
        ground = shown.eval_on_selector("body", "e => getComputedStyle(e).backgroundColor")
        assert ground == f"rgb{rgb(THEMES[scheme]['ground'])}"
        drawn = shown.eval_on_selector("#volume g.mark-rect path", "e => e.getAttribute('fill')")
        assert drawn in THEMES[scheme]["series"]
        if width == WIDTHS["desktop"]:
            assert serious(shown) == []


def serious(shown: Page) -> list[str]:
    """What axe-core finds serious or worse on a page."""
    found = Axe().run(shown).response["violations"]
    return [
        f"{one['id']}: {node['html'][:200]}"
        for one in found
        if one["impact"] in {"serious", "critical"}
        for node in one["nodes"]
    ]


def test_filter_is_reached_by_keyboard_and_hides_what_does_not_match(
    browser: Browser, full_home: Path
) -> None:
    with opened(browser, report_path(full_home)) as shown:
        shown.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.className") == "skip"
        for _ in range(150):
            shown.keyboard.press("Tab")
            if shown.evaluate("document.activeElement.id") == "filter":
                break
        assert shown.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        shown.keyboard.type("author_activity POSITIVE_ratio_7d")
        visible = [
            row.inner_text()
            for row in shown.locator("#catalogue tbody tr").all()
            if row.is_visible()
        ]
        assert len(visible) == 1
        assert visible[0].startswith("positive_ratio_7d")
        assert shown.locator("#found").inner_text().startswith("1 of ")
        shown.locator("#filter").fill("")
        assert shown.locator("#catalogue tbody tr[hidden], .card[hidden]").count() == 0


def test_a_search_is_an_address_and_each_feature_has_one(browser: Browser, full_home: Path) -> None:
    asks = "?q=lock+march+n_words#feature-author_activity-n_records_7d"
    with opened(browser, report_path(full_home), asks=asks) as shown:
        # the link leads to a feature that the search would hide
        place = shown.locator("#feature-author_activity-n_records_7d")
        expect(place).to_be_in_viewport()
        assert "?q" not in shown.url
        shown.locator("#filter").fill("lock march")
        expect(shown).to_have_url(re.compile(r"q=lock\+march"))
        found = shown.locator("#catalogue tbody tr:not([hidden])").all_inner_texts()
        assert [words.split()[0] for words in found] == ["n_words", "n_records_7d"]
    asks = "?q=lock+march+n_words"
    with opened(browser, report_path(full_home), asks=asks) as shown:
        assert shown.locator("#found").inner_text().startswith("1 of ")
        shown.locator("#view-record_quality summary").click()
        code = shown.locator("#view-record_quality .code").inner_text()
        assert "class RecordQuality(" in code
        assert "import" not in code


def test_lineage_leads_from_source_to_service(browser: Browser, full_home: Path) -> None:
    with opened(browser, report_path(full_home), width=390) as shown:
        box, picture = shown.locator(".picture-box"), shown.locator(".lineage")
        assert box.evaluate("e => e.scrollWidth > e.clientWidth")
        left = picture.evaluate(
            "e => Object.fromEntries([...e.querySelectorAll('a')].map("
            "a => [a.dataset.node, a.querySelector('rect').x.baseVal.value]))"
        )
        way = ["source notes", "raw.records", "staging.records", "record_quality"]
        way += ["author_activity", "author_tenure", "triage_v1"]
        assert [left[name] for name in way] == sorted({left[name] for name in way})
        picture.locator("a[data-node=author_tenure]").focus()
        marked = picture.evaluate(
            "e => [...e.querySelectorAll('path.on')].map(p => [p.dataset.from, p.dataset.to])"
        )
        assert ["source notes", "raw.records"] in marked
        assert ["author_tenure", "triage_v1"] in marked
        assert ["record_duplicates", "triage_v2"] not in marked
        shown.keyboard.press("Enter")
        assert shown.url.endswith("#view-author_tenure")
        expect(shown.locator("#view-author_tenure h3")).to_be_in_viewport()


def test_a_source_is_chosen_in_pictures_and_tables(browser: Browser, full_home: Path) -> None:
    with opened(browser, report_path(full_home)) as shown:
        assert shown.locator(".flow:visible").get_attribute("data-source") == "all"
        before = shown.locator("#outcomes g.mark-rect path").count()
        shown.select_option("#source", "other")
        expect(shown.locator("#outcomes g.mark-rect path")).not_to_have_count(before)
        assert shown.locator(".flow:visible").get_attribute("data-source") == "other"
        assert "5" in (shown.locator(".flow:visible").inner_text())
        rows = shown.locator("tr[data-source]:visible")
        assert {row.get_attribute("data-source") for row in rows.all()} == {"other"}


def test_a_change_of_theme_draws_again(browser: Browser, full_home: Path) -> None:
    with opened(browser, report_path(full_home)) as shown:
        shown.emulate_media(color_scheme="dark")
        shown.locator("html[data-drawn=dark]").wait_for()
        assert (
            shown.locator("#volume g.mark-rect path").first.get_attribute("fill")
            in THEMES["dark"]["series"]
        )
        shown.emulate_media(reduced_motion="reduce")
        assert shown.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
        shown.emulate_media(media="print")
        assert not shown.locator("nav").is_visible()
        assert (
            shown.evaluate("getComputedStyle(document.body).backgroundColor")
            == f"rgb{rgb(THEMES['light']['ground'])}"
        )


def test_names_that_are_markup_stay_names(
    browser: Browser, plain_home: Path, tmp_path: Path
) -> None:
    home = Path(shutil.copytree(plain_home, tmp_path / "<i>home"))
    second_source(home, HOSTILE)
    measured(home, HOSTILE)
    path = write_report(Warehouse(Settings(home=home)), now=NOW)
    with opened(browser, path) as shown:
        assert shown.title() == "millrace report"
        assert shown.locator("body i, body img").count() == 0
        assert shown.locator("script").count() == 3
        for place in (
            "#source option",
            "#flow tr[data-source] td",
            "#quarantine tbody th",
            "#drift tbody th",
            "#fields tbody td",
        ):
            assert [
                words for words in shown.locator(place).all_text_contents() if HOSTILE in words
            ] != [], place
        shown.select_option("#source", HOSTILE)
        expect(shown.locator(".flow:visible")).to_have_attribute("data-source", HOSTILE)
        shown.locator("#outcomes g.mark-rect path").first.hover()  # its tooltip has the name too
        expect(shown.locator(".vg-tooltip.visible")).to_contain_text("onerror")
        assert shown.locator(".vg-tooltip img").count() == 0
        assert shown.title() == "millrace report"


def test_what_screen_readers_need_is_there(browser: Browser, full_home: Path) -> None:
    with opened(browser, report_path(full_home)) as shown:
        assert shown.locator("h1").count() == 1
        assert shown.evaluate("document.documentElement.lang") == "en"
        lacking = shown.evaluate("""() => {
            const all = selector => [...document.querySelectorAll(selector)];
            const target = e => document.querySelector(e.getAttribute('href'));
            const heading = e => document.getElementById(e.getAttribute('aria-labelledby'));
            return [
                ...all('table').filter(e => !e.caption?.textContent.trim()),
                ...all('th').filter(e => !e.scope),
                ...all('input, select').filter(e => !e.labels.length),
                ...all('[data-chart], [role=img], [role=region]').filter(
                    e => !e.getAttribute('aria-label')),
                ...all('.scroll').filter(e => e.tabIndex !== 0),
                ...all('a[href^="#"]').filter(e => !target(e)),
                ...all('section').filter(e => !heading(e)),
            ].map(e => e.outerHTML.slice(0, 200));
        }""")
        assert lacking == []


def test_home_where_little_was_measured_says_so(
    browser: Browser, plain_home: Path, tmp_path: Path
) -> None:
    path = write_report(Warehouse(Settings(home=plain_home)), tmp_path / "deep" / "page.html", NOW)
    with opened(browser, path) as shown:
        assert "No drift has been measured yet." in shown.locator("#drift").inner_text()
        assert "No fields have been recorded yet." in shown.locator("#fields").inner_text()
        assert "every row is accounted for" in shown.locator(".headline").inner_text()


def test_home_without_a_row_has_a_page(browser: Browser, tmp_path: Path) -> None:
    home = tmp_path / "home"
    Warehouse(Settings(home=home)).create(AccountedFile)
    with opened(browser, write_report(Warehouse(Settings(home=home)), now=NOW)) as shown:
        words = " ".join(shown.locator(f"#{section}").inner_text() for section in SECTIONS)
        sentences = (
            "Nothing has been loaded",
            "Nothing has been staged",
            "No text has been measured",
            "Nothing is in quarantine",
            "No run has been measured",
        )
        assert [sentence for sentence in sentences if sentence not in words] == []


def test_page_contains_no_text_and_no_id(make_source: Callable[..., Any], tmp_path: Path) -> None:
    # with a digit, since a label of letters only is a name and is shown
    secrets = [
        f"{word}-{'q' * 8}7"
        for word in ("record", "author", "subject", "text", "label", "file", "rejected")
    ]
    record, author, subject, text, label, file, rejected = secrets
    times = {"written": "2024-01-01", "known": "2024-01-02"}
    good = {
        "id": record,
        "author": author,
        "subject": subject,
        "text": text,
        "label": label,
        **times,
    }
    (tmp_path / "in").mkdir()
    pl.DataFrame([good, {**good, "id": rejected, "written": rejected}]).write_ndjson(
        tmp_path / "in" / f"{file}.jsonl"
    )
    make_source(tmp_path / "in")
    run_plain(PipelineParameters(source=str(tmp_path / "source.yaml"), home=str(tmp_path / "home")))
    page = write_report(Warehouse(Settings(home=tmp_path / "home"))).read_text("utf-8")
    assert "not_a_time" in page
    assert [secret for secret in [*secrets, str(tmp_path)] if secret in page] == []


def test_numbers_are_those_of_the_tables(plain_home: Path) -> None:
    warehouse = Warehouse(Settings(home=plain_home))
    shown = read_shown(warehouse, NOW)
    counted = recount(warehouse)
    columns = ["source", "load_id", "n_read", "n_staged", "n_duplicates", "n_quarantined"]
    assert shown.loads.select(columns).sort(columns).equals(counted.select(columns).sort(columns))
    assert shown.rejects["n_rows"].sum() == counted["n_quarantined"].sum() > 0
    assert (
        shown.arrivals["n_versions"].sum()
        == shown.freshness["n_versions"].sum()
        == counted["n_staged"].sum()
    )
    assert shown.is_balanced
    assert shown.behind == []
    assert shown.runs["run"].max() == 2
    staged = pl.read_delta(str(warehouse.folder("staging.records")))
    assert shown.freshness["last_known_timestamp"].max() == staged["known_timestamp"].max()
    n_words = pl.read_delta(str(warehouse.folder("features.record_quality")))["n_words"]
    every = [feature for card in shown.cards for feature in card.features]
    (feature,) = [feature for feature in every if feature.column.name == "n_words"]
    assert feature.quantiles[1] == short(float(np.median(n_words.drop_nulls().to_numpy())))
    assert sum(feature.bins) == n_words.drop_nulls().len()
    assert feature.null_ratio == n_words.null_count() / n_words.len()


def test_books_that_do_not_add_up_are_reported(plain_home: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(plain_home, tmp_path / "home"))
    counts = {"n_read": 1, "n_staged": 1, "n_duplicates": 0, "n_quarantined": 0}
    publish(
        Warehouse(Settings(home=home)),
        AccountedFile,
        [{"load_id": "l", "source": "s", "source_uri": "u", **counts}],
    )
    assert "rows are missing" in write_report(Warehouse(Settings(home=home))).read_text("utf-8")


def test_quality_is_averaged_by_period(plain_home: Path) -> None:
    warehouse = Warehouse(Settings(home=plain_home))
    shown = read_shown(warehouse, NOW)
    day = datetime(2024, 2, 1, tzinfo=UTC)
    rows = pl.read_delta(str(warehouse.folder("features.record_quality"))).filter(
        pl.col("event_timestamp").dt.truncate("1d") == day
    )
    of_day = shown.quality.filter(period=day)
    values = dict(of_day.select("measure", "value").iter_rows())
    assert values["n_words"] == rows["n_words"].median()
    assert values["digit_ratio"] == pytest.approx(rows["digit_ratio"].mean())


def test_drift_is_that_of_the_last_load(full_home: Path) -> None:
    shown = read_shown(Warehouse(Settings(home=full_home)), NOW)
    numbers = shown.shapes.filter(column="n_words")
    before = numbers.filter(of="loads before it")
    assert numbers.filter(of="last load")["n"].sum() == 15
    assert before["n"].sum() == 20
    assert before["share"].sum() == pytest.approx(1)
    languages = dict(
        shown.shapes.filter(column="language", of="last load").select("value", "share").iter_rows()
    )
    assert languages == {"fr": 0.5, "en": 0.5}


ROWS = st.integers(0, 10**9)


@given(st.lists(st.tuples(ROWS, ROWS, st.lists(ROWS, max_size=8)), min_size=1, max_size=7))
def test_flow_keeps_every_row_and_every_label_has_its_place(
    sources: list[tuple[int, int, list[int]]],
) -> None:
    names = [f"s{place}" for place in range(len(sources))]
    counts = [
        (staged, duplicates, sum(rules), staged + duplicates + sum(rules))
        for staged, duplicates, rules in sources
    ]
    columns = ["n_staged", "n_duplicates", "n_quarantined", "n_read"]
    loads = pl.DataFrame(counts, schema=columns, orient="row").with_columns(source=pl.Series(names))
    rejected = [
        (name, f"r{number}", n)
        for name, (_, _, rules) in zip(names, sources, strict=True)
        for number, n in enumerate(rules)
    ]
    schema = {"source": pl.String, "rule": pl.String, "n_rows": pl.Int64}
    rejects = pl.DataFrame(rejected, schema=schema, orient="row").with_columns(
        column=pl.lit("text")
    )
    drawn = flow("all", loads, rejects)
    assert (
        sum(node.rows for node in drawn.left)
        == sum(node.rows for node in drawn.right)
        == loads["n_read"].sum()
    )
    for nodes in (drawn.left, drawn.right):
        middles = [node.middle for node in nodes]
        assert all(after - before >= SLOT * 0.999 for before, after in itertools.pairwise(middles))
        assert SLOT / 2 * 0.999 <= middles[0] <= middles[-1] <= 100 - SLOT / 2 * 0.999


@pytest.mark.parametrize(
    ("days", "unit"),
    [
        (0, "day"),
        (160, "day"),
        (161, "week"),
        (1120, "week"),
        (1121, "month"),
        (4800, "month"),
        (4801, "year"),
    ],
)
def test_periods_are_as_many_as_a_page_can_show(days: int, unit: str) -> None:
    span = {"first_known_timestamp": [NOW], "last_known_timestamp": [NOW + timedelta(days=days)]}
    assert period_unit(pl.DataFrame(span)) == unit


@pytest.mark.parametrize(
    ("values", "quantiles", "is_log"),
    [
        ([0.0, 0.5, 1.0], ("0.05", "0.5", "0.95"), False),
        ([1, 1, 1], ("1", "1", "1"), False),
        ([1 - 2**-53] + [1.0] * 9, ("1", "1", "1"), False),
        ([0] * 90 + [10_000] * 10, ("0", "0", "10,000"), True),
        ([NOW, NOW], ("2024-03-01", "2024-03-01", "2024-03-01"), False),
        ([True, False, False], ("0", "0", "0.9"), False),
    ],
)
def test_feature_is_described(values: list[Any], quantiles: tuple[str, ...], is_log: bool) -> None:  # noqa: FBT001
    sample = pl.DataFrame({"f": [None, *values]}, strict=False)
    feature = describe(
        "v", Column("f", sample["f"].dtype, "", nullable=True, origin=None, bounds=""), sample
    )
    assert (feature.quantiles, feature.is_log) == (quantiles, is_log)
    assert len(feature.bins) == N_BINS
    assert sum(feature.bins) == len(values)
    assert feature.null_ratio == 1 / (len(values) + 1)


def test_feature_of_words_lists_the_commonest() -> None:
    # what reads as an id is left out
    sample = pl.DataFrame({"f": ["en", "en", "de", None, "CVE-2024-1", "CVE-2024-1"]})
    feature = describe(
        "v", Column("f", sample["f"].dtype, "", nullable=True, origin=None, bounds=""), sample
    )
    assert feature.common == (("en", 2 / 5), ("de", 1 / 5))


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        (timedelta(minutes=3), "3 min ago"),
        (timedelta(hours=5, minutes=1), "5 h 1 min ago"),
        (timedelta(days=1, hours=1), "25 h 0 min ago"),
        (timedelta(days=2), "2 days ago"),
        (timedelta(days=65), "2 months ago"),
        (timedelta(days=730), "2 years ago"),
        (timedelta(days=-1), "0 min ago"),
    ],
)
def test_ages_are_said_in_words(passed: timedelta, words: str) -> None:
    assert ago(NOW - passed, NOW) == words


def test_script_is_kept_until_its_package_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(
        report_page.vl_convert, "javascript_bundle", lambda snippet: made.append(snippet) or "vega"
    )
    assert chart_script(tmp_path) == chart_script(tmp_path)
    assert len(made) == 1
    monkeypatch.setattr(report_page, "version", lambda _: "99")
    assert "99\nvega" in chart_script(tmp_path)
    assert len(made) == 2


def test_page_of_a_thousand_loads_is_hardly_larger_than_that_of_a_few_hundred(
    full_home: Path,
) -> None:
    shown = read_shown(Warehouse(Settings(home=full_home)), NOW)
    few, many = (len(render(with_loads(shown, n), "", "")) for n in (N_TABLE_ROWS + 1, 1_000))
    assert many - few < 1_000


def with_loads(shown: Shown, n_loads: int) -> Shown:
    """As if so many loads had come, each with what the newest has of everything."""
    names = [f"20240301T{n // 60:02}{n % 60:02}00000000-0000" for n in range(n_loads)]
    loads = pl.DataFrame({"load_id": names})

    def again(frame: pl.DataFrame) -> pl.DataFrame:
        newest = frame.filter(load_id=frame["load_id"].max())
        return (
            newest.drop("load_id")
            .join(loads, how="cross", maintain_order="right")
            .select(frame.columns)
        )

    return shown._replace(
        **{name: again(getattr(shown, name)) for name in ("loads", "rejects", "drift", "fields")}
    )


def test_page_is_small_and_fetches_nothing(full_home: Path) -> None:
    page = report_path(full_home).read_text("utf-8")
    script = (full_home / "report.js").read_text("utf-8")
    assert len(page) - len(script) < 300_000
    assert "default-src 'none'" in html.unescape(page)
    outside = page.replace(script, "")
    assert re.findall(r"""(?:src|href|action)=["']?(?!#|data:)[^"'\s>]+""", outside) == []


def test_command_writes_the_page(
    millrace: Callable[..., Any], plain_home: Path, tmp_path: Path
) -> None:
    done = millrace("report", "--home", str(plain_home), "--output", str(tmp_path / "page.html"))
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"{re.escape(str(tmp_path / 'page.html'))}: \d\.\d MB\n", done.stdout)
    assert "What became of every row" in (tmp_path / "page.html").read_text("utf-8")
    nothing = millrace("report", "--home", str(tmp_path / "nowhere"))
    assert nothing.returncode == 1
    assert "nothing is there yet" in nothing.stderr


def test_place_that_cannot_be_written_is_reported(plain_home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HomeError, match="choose another --output"):
        write_report(Warehouse(Settings(home=plain_home)), tmp_path / "file" / "page.html")


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))


def linear(colour: str) -> np.ndarray:
    """Linear RGB of a colour, as in WCAG 2.2, relative luminance."""
    part = np.array(rgb(colour)) / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted(
        (float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other)), reverse=True
    )
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", list(THEMES))
def test_words_and_marks_contrast_with_their_background(theme: str) -> None:
    """WCAG 2.2 AA: 4.5 for text (1.4.3), 3 for marks and the edges of inputs (1.4.11)."""
    colours = THEMES[theme]
    words = [
        (name, ground)
        for name in ("text", "muted", "link", "good", "bad")
        for ground in ("ground", "surface")
    ]
    faint = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in words}
    assert {pair: value for pair, value in faint.items() if value < 4.5} == {}
    marks = {
        colour: contrast(colour, colours["ground"])
        for colour in [*colours["series"], colours["edge"]]
    }
    assert {colour: value for colour, value in marks.items() if value < 3} == {}


# Machado, Oliveira, Fernandes 2009, severity 1: how the colour-blind see linear RGB
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, blindness: str) -> np.ndarray:
    """CIE 1976 L*a*b* of a colour as a colour-blind reader sees it; 2.3 is just noticeable."""
    xyz = TO_XYZ @ np.clip(BLINDNESS[blindness] @ linear(colour), 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", list(THEMES))
@pytest.mark.parametrize("blindness", list(BLINDNESS))
def test_the_colour_blind_can_distinguish_series(theme: str, blindness: str) -> None:
    pairs = itertools.combinations(THEMES[theme]["series"], 2)
    distances = {
        pair: float(np.linalg.norm(lab(pair[0], blindness) - lab(pair[1], blindness)))
        for pair in pairs
    }
    assert {pair: round(distance, 1) for pair, distance in distances.items() if distance < 15} == {}
