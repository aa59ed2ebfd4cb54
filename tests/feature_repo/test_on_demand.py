"""A text in a request has the features, to the bit, that the same text has in a batch's tables."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import httpx
import polars as pl
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from feature_repo import online_features, store
from feature_repo.on_demand import computed
from feature_repo.online import apply
from tests.feature_repo.test_feast_cli import ROOT, free_port, serving
from transforms.errors import DerivedError, HomeError, RefusedTextError
from transforms.features import Entity
from transforms.features.build import featurize
from transforms.features.on_demand import compute, entity_keys, on_demand_views, requested
from transforms.features.registry import registry
from transforms.home import Settings
from transforms.sources.ingest import ingest
from transforms.sources.source import load_source
from transforms.staging.mapping import WHITE_SPACE
from transforms.staging.prepare import prepare
from transforms.staging.treatment import keep_treatment, refusal
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

SHIPPED = ("record_quality", "record_text", "record_pii", "record_vector")
OWN = '''
"""Features of a record's text, label, attributes and time, and of another view."""
import polars as pl
from transforms.features import (
    Count, Derived, Entity, Field, GroupBy, Last, RecordSql, RecordView, Service, lifetime,
)

class RecordShape(RecordView, reads=("text", "text_redacted", "label", "attributes",
                                     "event_timestamp", "record_quality.n_words")):
    "What a record looks like."
    n_letters: int = Field.count("Letters of text, label, attributes.")
    hour: int = Field.count("Hour at which it was written.")
    n_redacted: int = Field.count("Characters without identifiers.")
    twice: int = Field.count("Words, twice.")

    @staticmethod
    def compute(records: pl.LazyFrame) -> pl.LazyFrame:
        said = pl.concat_str("text", "label", "attributes", ignore_nulls=True)
        return records.with_columns(
            n_letters=said.str.count_matches("[A-Za-z]").cast(pl.Int64),
            hour=pl.col("written_timestamp").dt.hour().cast(pl.Int64),
            n_redacted=pl.col("text_redacted").str.len_chars().cast(pl.Int64),
            twice=2 * pl.col("record_quality__n_words"),
        )

commas = RecordSql("record_commas", {
    "n_commas": "length(text) - length(replace(text, ',', ''))",
    "language_known": "(record_text.language <> 'und')::integer",
})
of_id = RecordSql("record_of_id", {"id_length": "length(record_id)"})
of_author = RecordSql("record_of_author", {"author_length": "length(author_id)"})
topic = Entity("topic", key="upper(attributes->>'lang')")
pair = Entity("pair", key=["author_id", "label"])
tag = Entity("tag", key="regexp_extract_all(text, '#([a-z]+)', 1)", many=True)
topic_activity = GroupBy("topic_activity", topic, [Count("n_records")], [lifetime])
pair_activity = GroupBy("pair_activity", pair, [Count("n_records")], [lifetime])
tag_activity = GroupBy("tag_activity", tag, [Count("n_records"), Last("label")], [lifetime])
tag_share = Derived("tag_share", [tag_activity], {"twice": "2 * n_records_lifetime"})
own_v1 = Service("own_v1", [RecordShape, commas, "record_pii:pii_any"])
'''
ODD = [
    "The weather is lovely today, isn't it? See https://example.org or write to ann@example.org!",
    "Das ist nicht gut.\n\nDas ist nicht gut.\n- ein Punkt\n> zitiert…",
    "привет, как дела?\r\n😀😀 ```code``` {x} <b>bold</b> \u00a0",
    "日本語のテキスト 한국어 العربية",
    "a\x01b\x7f \ufeff\u200b\u2028c\ufffe e\u0301 ﬁ \U0001d518",
    "tab\tcolumn\x0b\x0c \x1c \x85",
    "call +44 20 7946 0958, key AKIAABCDEFGHIJKLMNOP, 4111 1111 1111 1111",
    "no no no no no no NO GREAT good but BAD!!! ha ha ha ha ha ha ha ha ha ha ha ha",
    "x" * 5_000,
    "7",
    "a\x00b \x00",
    "<EMAIL_ADDRESS> <US_SSN>",
    "#one and #two",
    "#one #one",
    "of #one",
]


class Home(NamedTuple):
    """A real home, its records, and the requests that say the same; None is a tombstone's text."""

    root: Path
    requests: list[dict[str, Any]]
    environment: dict[str, str]

    def table(self, view: str) -> pl.DataFrame:
        """The features in a view's table, in the order of the requests."""
        rows = pl.read_delta(str(self.root / "features" / view))
        rows = rows.sort(pl.col("record_id").cast(pl.Int64))
        return rows.drop("record_id", "event_timestamp", "created_timestamp")

    def answered(self, view: str, requests: list[dict[str, Any]] | None = None) -> pl.DataFrame:
        """The features of a view as they are served for requests."""
        rows = self.requests if requests is None else requests
        names = self.table(view).columns
        found = online_features([f"{view}:{name}" for name in names], rows, self.root)
        return found.select(pl.col(f"{view}__{name}").alias(name) for name in names)


def texts() -> list[str | None]:
    """Odd texts, random ones of all planes of Unicode, one of a megabyte, and none."""
    drawn = random.Random(0)  # noqa: S311 - the same texts each time
    letters = [*range(1, 0xD800), *range(0xE000, 0x110000, 97)]
    found = [
        "x" + "".join(map(chr, drawn.choices(letters, k=drawn.randint(1, 80)))) for _ in range(80)
    ]
    words = ["the", "cat", "sat", "on", "a", "mat", "but", "it", "was", "not", "good"]
    found += [" ".join(drawn.choices(words, k=drawn.randint(1, 60))) for _ in range(80)]
    large = "".join(drawn.choices("abc, de.\nf😀é", k=700_000))
    return [*ODD, *found, large, None]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home of two runs with views of the user's own."""
    folder = tmp_path_factory.mktemp("on_demand")
    (folder / "features").mkdir()
    (folder / "features" / "own.py").write_text(OWN)
    requests = [
        {
            "text": text,
            "label": None if row % 3 else "bad",
            "attributes": None
            if text is None
            else json.dumps({"lang": f"l{row}"}, separators=(",", ":")),
            "event_timestamp": f"2026-01-0{1 + row % 9}T{row % 24:02}:00:{row % 60:02}Z",
        }
        for row, text in enumerate(texts())
    ]
    rows = [
        {
            "id": str(row),
            "author": "ann",
            "written": request["event_timestamp"],
            "text": request["text"],
            "label": request["label"],
            "lang": None if request["attributes"] is None else f"l{row}",
            "gone": request["text"] is None,
        }
        for row, request in enumerate(requests)
    ]
    (folder / "notes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    document = {
        "name": "notes",
        "uri": "notes.jsonl",
        "known": "at_event",
        "record": {
            "record_id": "id",
            "author_id": "author",
            "event_timestamp": "written",
            "text": "text",
            "label": "label",
        },
        "attributes": ["lang"],
        "tombstone": "gone",
    }
    (folder / "notes.yaml").write_text(yaml.safe_dump(document))
    environment = {**os.environ, "MILLRACE_FEATURES": str(folder / "features")}
    command = [sys.executable, "-m", "flows.cli", "run", "--plain", "--source"]
    command += [str(folder / "notes.yaml"), "--home", str(folder / "home")]
    subprocess.run(command, cwd=ROOT, check=True, env=environment, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_FEATURES", environment["MILLRACE_FEATURES"])
        yield Home(folder / "home", requests, environment)


VIEWS = (*SHIPPED, "record_shape", "record_commas")


def test_every_view_that_reads_what_a_request_carries_is_served_on_demand(home: Home) -> None:
    assert set(on_demand_views()) == {*VIEWS, "record_duplicates"}
    assert home.root.is_dir()


@pytest.mark.parametrize("view", VIEWS)
def test_many_texts_and_each_alone_are_answered_as_the_batch_computed_them(
    home: Home, view: str
) -> None:
    table = home.table(view)
    assert table.height == len(home.requests)
    assert_frame_equal(home.answered(view), table, check_exact=True)
    for row in [*range(0, len(home.requests), 7), len(home.requests) - 2, len(home.requests) - 1]:
        alone = home.answered(view, [home.requests[row]])
        assert_frame_equal(alone, table[row], check_exact=True)


# --- Feast's client and server ---


def features_of(view: str, home: Home) -> list[str]:
    return [f"{view}_on_demand:{name}" for name in home.table(view).columns]


def columns_for(home: Home, rows: list[int]) -> dict[str, list[Any]]:
    names = home.requests[0]
    return {name: [home.requests[row][name] for row in rows] for name in names}


# the last two of `texts`
LARGE, NONE = -2, -1
ROWS = [0, 1, 4, 6, 50, LARGE, NONE]


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("view", VIEWS)
def test_feasts_own_client_answers_as_the_batch(home: Home, view: str, *, full: bool) -> None:
    table = home.table(view)
    for rows in (ROWS, [0], [LARGE], [NONE]):
        found = store(home.root).get_online_features(
            features_of(view, home), columns_for(home, rows), full_feature_names=full
        )
        prefix = f"{view}_on_demand__" if full else ""
        answered = {name: found.to_dict()[prefix + name] for name in table.columns}
        assert_frame_equal(pl.DataFrame(answered, table.schema), table[rows], check_exact=True)


def duplicates_of(home: Home, texts: list[str | None]) -> pl.DataFrame:
    """What tests/transforms/features/engine/test_duplicates.py proves of a text that came last."""
    view = on_demand_views()["record_duplicates"]
    return compute(view, requested({"text": texts}, {}), home.root).select(view.features)


def test_near_duplicates_of_a_text_are_answered_by_function_and_feasts_client(home: Home) -> None:
    asked = [ODD[0], f"{ODD[0]} Indeed.", "nobody has said this before", None, "?!"]
    expected = duplicates_of(home, asked)
    assert expected["dup_of"].to_list() == ["0", "0", None, None, None]
    assert expected["dup_cluster_size"].to_list() == [2, 2, 1, None, 1]
    rows = [{"text": text} for text in asked]
    assert_frame_equal(home.answered("record_duplicates", rows), expected, check_exact=True)
    names = features_of("record_duplicates", home)
    found = store(home.root).get_online_features(names, rows).to_dict()
    answered = {name: found[name] for name in expected.columns}
    assert_frame_equal(pl.DataFrame(answered, expected.schema), expected, check_exact=True)


def test_an_index_that_may_lack_texts_is_not_asked(tmp_path: Path) -> None:
    view, versions = on_demand_views()["record_duplicates"], requested({"text": ["a"]}, {})
    (tmp_path / "views").write_text("record_quality")
    with pytest.raises(HomeError, match=r"^record_duplicates: is off in this home.* run once"):
        compute(view, versions, tmp_path)


def test_services_are_answered_under_the_names_that_a_model_was_trained_on(home: Home) -> None:
    expected = {
        **{
            f"record_shape__{name}": home.table("record_shape")[name][0]
            for name in ("hour", "twice")
        },
        "record_commas__n_commas": home.table("record_commas")["n_commas"][0],
        "record_pii__pii_any": home.table("record_pii")["pii_any"][0],
    }
    row = home.requests[0]
    ours = online_features("own_v1", [row], home.root).row(0, named=True)
    feast = store(home.root)
    service = feast.get_feature_service("own_v1_on_demand")
    theirs = feast.get_online_features(service, [row], full_feature_names=True).to_dict()
    assert {name: ours[name] for name in expected} == expected
    assert {name: theirs[name][0] for name in expected} == expected
    assert "record_pii__pii_us_ssn_count" not in ours


def test_one_call_gives_the_activity_of_those_that_the_text_names(home: Home) -> None:
    names = [f"{view}:n_records_lifetime" for view in ("topic_activity", "pair_activity")]
    rows = [
        {"text": "a", "attributes": attributes, "author_id": author, "label": "bad"}
        for attributes, author in (({"lang": "l7"}, "ann"), ({"lang": "l-1"}, "bob"))
    ]
    found = online_features(["record_quality:n_words", *names], rows, home.root)
    n_bad = sum(row["label"] == "bad" for row in home.requests if row["text"] is not None)
    assert found["topic_activity__n_records_lifetime"].to_list() == [1, 0]
    assert found["pair_activity__n_records_lifetime"].to_list() == [n_bad, 0]
    given = [row | {"topic": topic} for row, topic in zip(rows, ("L7", "L-1"), strict=True)]
    assert_frame_equal(online_features(names, given, home.root)[:, -2:], found[:, -2:])


ACTIVITIES = [f"{view}:n_records_lifetime" for view in ("topic_activity", "pair_activity")]
WHO = {
    "text": ["a note", "a note"],
    "attributes": ['{"lang":"l7"}', '{"lang":"l-1"}'],
    "author_id": ["ann", "bob"],
    "label": ["bad", "bad"],
}


def test_feasts_client_is_answered_for_those_that_the_text_names(home: Home) -> None:
    rows = [dict(zip(WHO, values, strict=True)) for values in zip(*WHO.values(), strict=True)]
    expected = online_features(["record_quality:n_words", *ACTIVITIES], rows, home.root)
    names = ["record_quality_on_demand:n_words", *ACTIVITIES]
    for asked in (rows, WHO):
        found = store(home.root).get_online_features(names, asked, full_feature_names=True)
        answered = found.to_dict()
        assert answered["topic"] == ["L7", "L-1"]
        for name in ACTIVITIES:
            assert answered[name.replace(":", "__")] == expected[name.replace(":", "__")].to_list()
        assert answered["record_quality_on_demand__n_words"] == [2, 2]


TAG = ["tag_activity:n_records_lifetime", "tag_activity:last_label_lifetime"]


def test_a_text_has_lists_of_all_that_it_names(home: Home) -> None:
    rows = [{"text": text} for text in ("#two, #one or #none; #one", "nothing", None, "#ein")]
    found = online_features(["record_quality:n_words", *TAG], rows, home.root)
    assert found["tag"].to_list() == [["none", "one", "two"], [], [], ["ein"]]
    assert found["record_quality__n_words"].to_list() == [5, 1, None, 1]
    assert found["tag_activity__n_records_lifetime"].to_list() == [[0, 3, 1], [], [], [0]]
    given = [{"tag": tag} for tag in ("none", "one", "two")]  # as a row for each has it
    alone = online_features(TAG, given, home.root)
    for name in (name.replace(":", "__") for name in TAG):
        assert found[name][0].to_list() == alone[name].to_list()
    nobody = online_features(TAG, [{"text": "nothing"}], home.root)
    assert nobody[:, 1:].rows() == [([], [], [])]


@pytest.mark.parametrize("name", ["topic", "pair", "tag"])
def test_keys_of_a_request_are_those_that_a_run_makes(home: Home, name: str) -> None:
    entity = registry().entities[name]
    with connect(Warehouse(Settings(home=home.root))) as connection:
        made = f"select record_id, try({entity.sql}) as entity_id from staging.records"
        by_number = f"select {entity.columns_of_id} from ({made}) order by record_id::integer"
        expected: pl.DataFrame = connection.sql(by_number).pl()
    columns = columns_for(home, [*range(len(home.requests))])
    found = entity_keys(entity, {**columns, "author_id": ["ann"] * len(home.requests)}, {})
    is_there = [text is not None for text in columns["text"]]  # a tombstone names nobody
    for column, keys in found.items():
        rows = zip(keys, expected[column].to_list(), is_there, strict=True)
        assert all(
            key == (sorted(known or []) if entity.many else known)
            for key, known, there in rows
            if there
        )
    assert any(found[entity.columns[-1]])


def test_keys_are_made_of_a_text_as_the_sources_treat_it() -> None:
    mail = Entity("mail", key="regexp_extract_all(text, '[a-z]+@[a-z.]+')", many=True)
    request = {"text": ["write to ann@example.org"]}
    assert entity_keys(mail, request, {"notes": "keep"}) == {"mail": [["ann@example.org"]]}
    assert entity_keys(mail, request, {"notes": "redact"}) == {"mail": [[]]}


def test_what_cannot_answer_with_lists_says_so(home: Home) -> None:
    row = {"text": "#one"}
    with pytest.raises(ValueError, match="the rows have no 'tag', of which one text may name"):
        store(home.root).get_online_features(TAG, [row])
    with pytest.raises(ValueError, match=r"tag_share is computed of one .* give a row for each"):
        online_features(["tag_share:twice"], [row], home.root)
    with pytest.raises(RefusedTextError, match=r"^row 1: text: empty"):
        online_features(TAG, [{"text": " "}], home.root)


@pytest.fixture(scope="module")
def server(home: Home) -> Iterator[httpx.Client]:
    port = free_port()
    command = [sys.executable, "-m", "flows.cli", "serve", "--home", str(home.root)]
    with (
        serving([*command, "--port", str(port)], port, "/health") as address,
        httpx.Client(base_url=address, timeout=100) as client,
    ):
        yield client


@pytest.mark.service
@pytest.mark.parametrize("view", VIEWS)
def test_the_running_server_answers_as_the_batch(
    home: Home, server: httpx.Client, view: str
) -> None:
    table = home.table(view)
    for rows in (ROWS, [0], [LARGE], [NONE]):
        body = {"features": features_of(view, home), "entities": columns_for(home, rows)}
        answer = server.post("/get-online-features", json=body)
        assert answer.status_code == 200, answer.text
        names = answer.json()["metadata"]["feature_names"]
        results = dict(zip(names, answer.json()["results"], strict=True))
        for name, kind in table.schema.items():
            values = results[name]["values"]
            numbers = [value and int(value) for value in values] if kind == pl.Int64 else values
            assert_frame_equal(
                pl.DataFrame({name: pl.Series(numbers, dtype=kind)}),
                table[rows].select(name),
                check_exact=True,
            )


@pytest.mark.service
def test_the_running_server_answers_for_those_that_the_text_names(
    home: Home, server: httpx.Client
) -> None:
    body = {"features": ["record_quality_on_demand:n_words", *ACTIVITIES], "entities": WHO}
    answer = server.post("/get-online-features", json={**body, "full_feature_names": True})
    assert answer.status_code == 200, answer.text
    names = answer.json()["metadata"]["feature_names"]
    results = {
        name: result["values"] for name, result in zip(names, answer.json()["results"], strict=True)
    }
    rows = [dict(zip(WHO, values, strict=True)) for values in zip(*WHO.values(), strict=True)]
    expected = online_features(ACTIVITIES, rows, home.root)
    for name in (name.replace(":", "__") for name in ACTIVITIES):
        assert [int(value) for value in results[name]] == expected[name].to_list()
    refused = server.post(
        "/get-online-features", json={"features": TAG, "entities": {"text": ["#one"]}}
    )
    assert refused.status_code == 422
    assert "one text may name several" in refused.text


@pytest.mark.service
def test_the_servers_own_route_answers_with_lists_and_duplicates(
    home: Home, server: httpx.Client
) -> None:
    names = ["record_quality:n_words", *TAG, "record_duplicates:dup_of"]
    asked = ["#two, #one or #none; #one", ODD[0], None]
    answer = server.post("/features", json={"features": names, "entities": {"text": asked}})
    assert answer.status_code == 200, answer.text
    expected = online_features(names, [{"text": text} for text in asked], home.root)
    assert answer.json() == expected.drop("text").to_dict(as_series=False)
    assert answer.json()["tag"] == [["none", "one", "two"], [], []]


@pytest.mark.service
def test_the_running_server_compares_a_text_with_the_index(
    home: Home, server: httpx.Client
) -> None:
    asked = [ODD[0], f"{ODD[0]} Indeed.", "nobody has said this before", None]
    body = {"features": features_of("record_duplicates", home), "entities": {"text": asked}}
    answer = server.post("/get-online-features", json=body)
    assert answer.status_code == 200, answer.text
    names = answer.json()["metadata"]["feature_names"]
    results = {
        name: result["values"] for name, result in zip(names, answer.json()["results"], strict=True)
    }
    expected = duplicates_of(home, asked)
    assert [results[name] for name in expected.columns[:2]] == [
        expected[name].to_list() for name in expected.columns[:2]
    ]
    assert [value and int(value) for value in results["dup_cluster_size"]] == [2, 2, 1, None]


@pytest.mark.service
@pytest.mark.parametrize(
    ("text", "rule"),
    [("", "empty"), (" \n\u2003", "empty"), ("x" * (17 << 20), "too_long"), (7, "not_text")],
)
def test_a_text_that_a_run_would_quarantine_is_answered_with_the_reason(
    home: Home, server: httpx.Client, text: Any, rule: str
) -> None:
    texts = ["a note", text] if isinstance(text, str) else [text]
    body = {"features": ["record_quality_on_demand:n_words"], "entities": {"text": texts}}
    answer = server.post("/get-online-features", json=body)
    assert answer.status_code == 422
    assert f"row {len(texts)}: text: {rule}" in answer.text
    assert len(answer.text) < 500
    with pytest.raises(RefusedTextError, match=f"^row {len(texts)}: text: {rule}[^\n]*$"):
        store(home.root).get_online_features(body["features"], body["entities"])
    with pytest.raises(RefusedTextError, match=f"^row 2: text: {rule}[^\n]*$"):
        online_features(["record_quality:n_words"], [{"text": "a note"}, {"text": text}], home.root)


# --- any text, any batch ---
TEXTS = st.lists(
    st.none() | st.text(min_size=1).filter(lambda text: not text.isspace()), min_size=1
)


@settings(max_examples=60)
@given(texts=TEXTS)
def test_the_company_of_a_text_changes_no_bit(texts: list[str | None]) -> None:
    for name in SHIPPED:
        view = on_demand_views()[name]
        together, *alone = (
            compute(view, requested({"text": some}, {})).select(view.features)
            for some in (texts, *([text] for text in texts))
        )
        assert_frame_equal(together, pl.concat(alone), check_exact=True)


def shipped(texts: list[str | None]) -> pl.DataFrame:
    """What the kernels of a run make of texts, under the names of an answer."""
    versions = requested({"text": texts}, {})
    return pl.DataFrame(
        [
            column.alias(f"{name}_on_demand__{column.name}")
            for name in SHIPPED
            for column in compute(on_demand_views()[name], versions)[
                on_demand_views()[name].features
            ]
        ]
    )


@settings(max_examples=10)
@given(texts=TEXTS)
def test_any_texts_are_answered_alike_by_function_and_feasts_client(
    home: Home, texts: list[str | None]
) -> None:
    expected = shipped(texts)
    names = [name.replace("__", ":", 1) for name in expected.columns]
    rows = [{"text": text} for text in texts]
    found = online_features([name.replace("_on_demand", "") for name in names], rows, home.root)
    assert_frame_equal(found[:, 1:], expected.rename(without_end), check_exact=True)
    answered = store(home.root).get_online_features(names, rows, full_feature_names=True).to_dict()
    theirs = {name: answered[name] for name in expected.columns}
    assert_frame_equal(pl.DataFrame(theirs, expected.schema), expected, check_exact=True)


def without_end(name: str) -> str:
    return name.replace("_on_demand", "")


@pytest.mark.service
@settings(max_examples=10)
@given(texts=TEXTS)
def test_any_texts_are_answered_alike_by_the_running_server(
    server: httpx.Client, texts: list[str | None]
) -> None:
    expected = shipped(texts)
    names = [name.replace("__", ":", 1) for name in expected.columns]
    body = {"features": names, "entities": {"text": texts}, "full_feature_names": True}
    answer = server.post("/get-online-features", json=body)
    assert answer.status_code == 200, answer.text
    answered = dict(
        zip(answer.json()["metadata"]["feature_names"], answer.json()["results"], strict=True)
    )
    for name, kind in expected.schema.items():
        values = answered[name]["values"]
        numbers = [value and int(value) for value in values] if kind == pl.Int64 else values
        assert_frame_equal(
            pl.DataFrame({name: pl.Series(numbers, dtype=kind)}),
            expected.select(name),
            check_exact=True,
        )


def test_blank_is_the_same_for_a_request_and_a_run() -> None:
    code_points = pl.Series(
        "text", [chr(point) for point in range(1, 0x110000) if not 0xD800 <= point < 0xE000]
    )
    frame = code_points.to_frame()  # noqa: F841 - DuckDB reads it by its name
    blank = duckdb.sql(
        "select text from frame where regexp_full_match(text, $1)", params=[WHITE_SPACE]
    )
    found = {text for (text,) in blank.fetchall()}
    assert found == {text for text in code_points if refusal(text, 10)}
    assert {refusal(text, 10) for text in found} == {"empty"}


def staged(texts: list[str], folder: Path, **changes: Any) -> Warehouse:
    """A home in which texts were staged, or quarantined."""
    rows = [
        {"id": str(row), "author": "ann", "written": "2026-01-01T00:00:00Z", "text": text}
        for row, text in enumerate(texts)
    ]
    (folder / "notes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    record = {
        "record_id": "id",
        "author_id": "author",
        "event_timestamp": "written",
        "text": "text",
    }
    document = {"name": "notes", "uri": "notes.jsonl", "known": "at_event", "record": record}
    (folder / "notes.yaml").write_text(yaml.safe_dump({**document, **changes}))
    source = load_source(folder / "notes.yaml")
    warehouse = Warehouse(Settings(home=folder / "home"))
    ingest(source, warehouse)
    prepare(source, warehouse, accept_load=True)
    return warehouse


ANY_TEXT = st.text(st.characters(codec=None) | st.sampled_from(" \t\u2003\x00\ud800"), max_size=9)


@settings(max_examples=4)
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=100))
@example(texts=["", " ", "\x00", "a\x00b", "\ud800", "\udc00a", "\u00a0", "a", "\x1c", "\u200b"])
def test_a_request_refuses_what_a_run_would_quarantine(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    warehouse = staged(texts, tmp_path_factory.mktemp("staged"))
    counted = pl.read_delta(str(warehouse.folder("staging.records")))["record_id"].to_list()
    # a request comes as JSON too, in which two halves of a pair are one character
    asked = [json.loads(json.dumps(text)) for text in texts]
    assert {int(row) for row in counted} == {
        row for row, text in enumerate(asked) if refusal(text, 1_000) is None
    }


def test_a_request_is_redacted_where_the_sources_redact(tmp_path: Path) -> None:
    warehouse = staged(["write to a@example.org"], tmp_path, text="redact")
    featurize(warehouse, datetime(2026, 2, 1, tzinfo=UTC))
    apply(warehouse)
    row, home = {"text": "write to a@example.org"}, warehouse.settings.root
    names = ["record_quality:n_characters", "record_pii:pii_any"]
    stored = pl.read_delta(str(warehouse.folder("features.record_quality")))["n_characters"]
    assert online_features(names, [row], home).row(0)[1:] == (stored.item(), 1)
    keep_treatment(
        home, load_source(tmp_path / "notes.yaml").model_copy(update={"name": "b", "text": "keep"})
    )
    assert apply(warehouse)  # another treatment is registered again
    with pytest.raises(RefusedTextError, match=r"^row 1: some sources .* like: b, notes$"):
        online_features(names, [row], home)
    for source, n_characters in (("notes", stored.item()), ("b", 22)):
        found = online_features(names, [row | {"source": source}], home)
        assert found.item(0, 2) == n_characters


def test_other_code_than_the_registered_serves_nothing() -> None:
    view = on_demand_views()["record_quality"]
    with pytest.raises(DerivedError, match=r"^record_quality: .* other code .* run the pipeline"):
        computed({"record_quality": f"{view.digest() + 1:x}"}, {}, {"text": ["a"]})


def test_what_reads_more_than_a_request_has_needs_the_record(home: Home) -> None:
    assert not {"record_of_id", "record_of_author"} & set(on_demand_views())
    with pytest.raises(ValueError, match="the rows have no 'text'"):
        online_features(["record_quality_on_demand:n_words"], [{"author_id": "ann"}], home.root)
    with pytest.raises(ValueError, match="the rows have no 'attributes'"):
        online_features(["record_shape:hour"], [{"text": "a"}], home.root)
