"""A client's mistakes over HTTP get nulls, an empty answer or 4xx with the reason, never 500."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.feature_repo.test_feast_cli import free_port, serving

REPOSITORY = Path(__file__).parent.parent.parent / "feature_repo"
DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Array, Float32, Int64, Json, String, UnixTimestamp

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
order = Entity(name="order", join_keys=["order_id"], value_type=ValueType.INT64)
day = Entity(name="day", join_keys=["day"], value_type=ValueType.UNIX_TIMESTAMP)
batch = FileSource(name="batch", path="batch", timestamp_field="event_timestamp")
features = [
    Field(name="count", dtype=Int64),
    Field(name="title", dtype=String),
    Field(name="seen", dtype=UnixTimestamp),
    Field(name="sizes", dtype=Array(Int64)),
    Field(name="vector", dtype=Array(Float32)),
    Field(name="raw", dtype=Json),
]
users = FeatureView(
    name="users", entities=[user], source=PushSource(name="pushed", batch_source=batch),
    schema=[Field(name="user_id", dtype=String), *features],
)
orders = FeatureView(
    name="orders",
    entities=[order],
    source=FileSource(name="orders", path="orders", timestamp_field="event_timestamp"),
    schema=[Field(name="order_id", dtype=Int64), Field(name="total", dtype=Int64)],
)
days = FeatureView(
    name="days",
    entities=[day],
    source=FileSource(name="days", path="days", timestamp_field="event_timestamp"),
    schema=[Field(name="day", dtype=UnixTimestamp), Field(name="rain", dtype=Int64)],
)
both = FeatureService(name="both", features=[users[["count"]], orders])
"""
ROW: dict[str, Any] = {
    "count": 7,
    "title": "x",
    "seen": "2026-01-02T03:04:05+01:00",
    "sizes": [1, 2],
    "vector": [0.5, 2],
    "raw": '{"a": [1, "x"]}',
    "event_timestamp": "2026-01-01T00:00:00Z",
}
SERVED = {**ROW, "seen": 1767319445}  # Feast's server answers times so
NULLS = dict.fromkeys(["count", "title", "seen", "sizes", "vector", "raw"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """`feast serve` on a separate repository that includes the one file Feast's server loads."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "definitions.py").write_text(DEFINITIONS)
    (folder / ".feastignore").write_text("static_artifacts.py\n")
    (folder / "static_artifacts.py").write_text((REPOSITORY / "static_artifacts.py").read_text())
    settings = yaml.safe_load((REPOSITORY / "feature_store.yaml").read_text())
    settings["registry"]["path"], settings["online_store"]["path"] = "registry.db", "online.db"
    settings["offline_store"]["warehouse"] = "."
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(settings))
    feast = [str(Path(sys.executable).parent / "feast"), "-c", str(folder)]
    subprocess.run(
        [*feast, "apply", "--skip-source-validation"], check=True, capture_output=True, timeout=300
    )
    port = free_port()
    command = [*feast, "serve", "--port", str(port)]
    limits = httpx.Limits(max_keepalive_connections=0)
    with (
        serving(command, port, "/health", MILLRACE_SERVER_WRITES="1") as address,
        httpx.Client(base_url=address, timeout=60, limits=limits) as client,
    ):
        yield client


def asked(
    client: httpx.Client, entities: dict[str, Any], features: list[str] | None = None, **body: Any
) -> httpx.Response:
    chosen = {"features": features or ["users:count"]} if "feature_service" not in body else {}
    return client.post("/get-online-features", json={"entities": entities, **chosen, **body})


def columns(response: httpx.Response) -> dict[str, list[Any]]:
    assert response.status_code == 200, response.text
    answer = response.json()
    return {
        name: result["values"]
        for name, result in zip(answer["metadata"]["feature_names"], answer["results"], strict=True)
    }


def push(
    client: httpx.Client, rows: dict[str, Any], source: str = "pushed", **body: Any
) -> httpx.Response:
    return client.post("/push", json={"push_source_name": source, "df": rows, **body})


def write(client: httpx.Client, rows: dict[str, Any], view: str = "users") -> httpx.Response:
    return client.post("/write-to-online-store", json={"feature_view_name": view, "df": rows})


def listed(user: Any, **row: Any) -> dict[str, list[Any]]:
    return {name: [value] for name, value in {"user_id": user, **ROW, **row}.items()}


pytestmark = pytest.mark.service


@pytest.mark.parametrize("route", [push, write])
def test_what_is_written_is_read_and_nothing_older_or_null_is_kept_from_it(
    server: httpx.Client, route: Any
) -> None:
    name = route.__name__
    features = [f"users:{feature}" for feature in NULLS]
    assert route(server, listed(name)).status_code == 200
    found = columns(asked(server, {"user_id": [name]}, features))
    assert {feature: found[feature][0] for feature in NULLS} == {
        feature: SERVED[feature] for feature in NULLS
    }
    assert (
        route(server, listed(name, event_timestamp="2025-01-01T00:00:00Z", count=1)).status_code
        == 200
    )
    assert columns(asked(server, {"user_id": [name]}))["count"] == [7]
    assert (
        route(server, listed(name, **NULLS, event_timestamp="2026-02-01T00:00:00Z")).status_code
        == 200
    )
    found = columns(asked(server, {"user_id": [name]}, features))
    assert {feature: found[feature] for feature in NULLS} == {feature: [None] for feature in NULLS}


def test_null_key_is_answered_null_and_does_not_fail_its_batch(server: httpx.Client) -> None:
    push(server, listed("ann"))
    assert columns(asked(server, {"user_id": [None, "ann", "nobody"]}))["count"] == [None, 7, None]
    assert columns(asked(server, {"user_id": [None]}))["count"] == [None]
    mixed = columns(
        asked(server, {"user_id": ["ann", None], "order_id": [None, 3]}, feature_service="both")
    )
    assert (mixed["count"], mixed["total"]) == ([7, None], [None, None])


def test_no_rows_are_answered_with_none(server: httpx.Client) -> None:
    assert columns(asked(server, {"user_id": []})) == {"user_id": [], "count": []}


def test_keys_are_read_by_the_rule_of_their_types(server: httpx.Client) -> None:
    push(server, listed("5"))
    write(server, {"order_id": [5], "total": [2**60], "event_timestamp": ["2026-01-01"]}, "orders")
    write(server, {"day": ["2026-01-01"], "rain": [3], "event_timestamp": ["2026-01-01"]}, "days")
    assert columns(asked(server, {"user_id": [5, "5"]}))["count"] == [7, 7]
    orders = columns(
        asked(server, {"order_id": [5, "5", 5.0, "05", 5.5, 2**70]}, ["orders:total"])
    )["total"]
    assert [value and int(value) for value in orders] == [2**60, 2**60, 2**60, None, None, None]
    days = columns(
        asked(server, {"day": ["2026-01-01", "2026-01-01T01:00:00+01:00", None]}, ["days:rain"])
    )["rain"]
    assert days == [3, 3, None]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"entities": {"user_id": ["a"]}, "features": ["users:never"]}, "never"),
        ({"entities": {"user_id": ["a"]}, "features": ["nowhere:count"]}, "nowhere"),
        ({"entities": {"user_id": ["a"]}, "features": ["count"]}, "count"),
        ({"entities": {"user_id": ["a"]}, "features": []}, "feature"),
        ({"entities": {"user_id": ["a"]}, "features": ["users:count", "users:count"]}, "count"),
        ({"entities": {"user_id": ["a"]}, "feature_service": "never"}, "never"),
        ({"entities": {"name": ["a"]}, "features": ["users:count"]}, "user_id"),
        ({"entities": {"order_id": [1]}, "features": ["users:count"]}, "user_id"),
        ({"entities": {}, "features": ["users:count"]}, "column"),
        (
            {"entities": {"user_id": ["a", "b"], "order_id": [1]}, "features": ["users:count"]},
            "as many",
        ),
        ({"entities": {"user_id": [True]}, "features": ["users:count"]}, "bool"),
        ({"entities": {"user_id": [1.5]}, "features": ["users:count"]}, "float"),
        ({"entities": {"user_id": [["a"]]}, "features": ["users:count"]}, "list"),
        ({"entities": {"user_id": [{"a": 1}]}, "features": ["users:count"]}, "dict"),
        ({"entities": {"order_id": [False]}, "features": ["orders:total"]}, "bool"),
        ({"entities": {"day": [1767225600]}, "features": ["days:rain"]}, "unit"),
        ({"entities": {"day": ["yesterday"]}, "features": ["days:rain"]}, "ISO 8601"),
        ({"entities": {"user_id": "a"}, "features": ["users:count"]}, "list"),
        ({"entities": ["a"], "features": ["users:count"]}, "dict"),
    ],
)
def test_mistake_in_a_question_is_answered_with_the_reason(
    server: httpx.Client, body: dict[str, Any], words: str
) -> None:
    response = server.post("/get-online-features", json=body)
    assert 400 <= response.status_code < 500, response.text
    assert words in response.text


def test_what_is_no_json_is_refused(server: httpx.Client) -> None:
    response = server.post(
        "/get-online-features",
        content=b'{"entities": ',
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code == 422
    assert "JSON" in response.text


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"user_id": [None]}, "null"),
        ({"user_id": [True]}, "bool"),
        ({"count": ["many"]}, "column 'count'"),
        ({"count": [1.5]}, "column 'count'"),
        ({"sizes": [[1, None]]}, "null inside of a list"),
        ({"vector": [["a"]]}, "column 'vector'"),
        ({"seen": ["soon"]}, "column 'seen'"),
        ({"raw": ["{"]}, "column 'raw'"),
        ({"event_timestamp": [1767225600]}, "unit"),
        ({"event_timestamp": [None]}, "null instants"),
        ({"event_timestamp": ["01/02/2026"]}, "ISO 8601"),
        ({"count": [1, 2]}, "length"),
    ],
)
@pytest.mark.parametrize("route", [push, write])
def test_mistake_in_a_row_is_answered_with_the_reason_and_nothing_is_written(
    server: httpx.Client, route: Any, row: dict[str, Any], words: str
) -> None:
    response = route(server, {**listed("half"), **row})
    assert 400 <= response.status_code < 500, response.text
    assert words in response.text
    assert columns(asked(server, {"user_id": ["half"]}))["count"] == [None]


def test_what_is_not_there_to_be_written_to_is_named(server: httpx.Client) -> None:
    assert push(server, listed("a"), "never").status_code in (404, 422)
    assert write(server, listed("a"), "never").status_code == 404
    assert push(server, listed("a"), to="sideways").status_code == 422
    short = {name: values for name, values in listed("a").items() if name != "title"}
    for response in (push(server, short), write(server, short)):
        assert response.status_code == 422
        assert "no column 'title'" in response.text
    assert push(server, {}).status_code < 500
