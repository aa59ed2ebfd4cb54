"""The server of `millrace serve` forks, and every route of Feast answers from the fork."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
import websockets
from feast.feature_server import get_app
from starlette.routing import Route

from feature_repo import online_features, store
from tests.feature_repo.test_feast_cli import free_port, serving
from transforms.features.views.record_quality import RecordQuality
from transforms.warehouse.tables import Warehouse

pytestmark = pytest.mark.service

COUNT, TENURE = "author_activity:n_records_lifetime", "author_tenure:days_since_first_record"


class Server(NamedTuple):
    """A running feature server: its address, the home it serves, and the process that forked."""

    address: str
    home: Path
    process: psutil.Process

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(self.address + path, json=body, timeout=100)


@pytest.fixture(scope="module")
def server(ann: Warehouse) -> Iterator[Server]:
    """The server on ann's home, before anything was materialized."""
    port, home = free_port(), ann.settings.root
    command = [sys.executable, "-m", "flows.cli", "serve", "--home", str(home), "--port", str(port)]
    with serving([*command, "--writes"], port, "/health") as address:
        (process,) = (
            child
            for child in psutil.Process().children()
            if "serve" in child.cmdline() and str(port) in child.cmdline()
        )
        yield Server(address, home, process)


def test_no_threads_of_tables_or_queries_run_where_the_server_forks(server: Server) -> None:
    threads = {
        Path(f"/proc/{server.process.pid}/task/{thread.id}/comm").read_text().strip()
        for thread in server.process.threads()
    }
    assert len(server.process.children()) == 1  # the fork that answers
    assert {
        thread
        for thread in threads
        if thread.startswith(("tokio", "duckdb", "async", "polars-0", "polars-1"))
    } == set()


# --- each route ---
VECTORS = {
    "features": ["record_vector:hash_vec_256"],
    "query": [1.0] + [0.0] * 255,
    "top_k": 1,
    "api_version": 2,
}
PUSHED = {
    "author_id": ["bob"],
    "event_timestamp": ["2026-01-03T15:00:00+05:00"],
    "created_timestamp": ["2026-01-03T15:00:00+05:00"],
}
SPAN = {"start_ts": "2025-01-01T00:00:00Z", "end_ts": "2026-02-01T00:00:00Z"}
# in this order: what is read was materialized before
REQUESTS: dict[str, tuple[str, dict[str, Any] | None, int]] = {
    "POST /materialize": ("/materialize", SPAN, 200),
    "POST /materialize-incremental": (
        "/materialize-incremental",
        {"end_ts": "2026-02-02T00:00:00Z"},
        200,
    ),
    "GET /health": ("/health", None, 200),
    "GET /metrics": ("/metrics", None, 200),
    "POST /get-online-features": (
        "/get-online-features",
        {"features": [COUNT], "entities": {"author_id": ["ann"]}},
        200,
    ),
    "POST /features": (
        "/features",
        {"features": [COUNT], "entities": {"author_id": ["ann"]}},
        200,
    ),
    "POST /search": ("/search", VECTORS, 200),
    "POST /retrieve-online-documents": ("/retrieve-online-documents", VECTORS, 200),
    "GET /v1/vector_stores": ("/v1/vector_stores", None, 200),
    "GET /v1/vector_stores/{vector_store_id}": ("/v1/vector_stores/vs_nobody", None, 404),
    "POST /v1/vector_stores/{vector_store_id}/search": (
        "/v1/vector_stores/vs_nobody/search",
        {"query": "note"},
        404,
    ),
    "POST /push": ("/push", {"push_source_name": "nobody", "df": PUSHED}, 422),
    "POST /write-to-online-store": (
        "/write-to-online-store",
        {"feature_view_name": "nobody", "df": PUSHED},
        404,
    ),
    "GET /chat": ("/chat", None, 200),
    "POST /chat": ("/chat", {"messages": [{"role": "user", "content": "hello"}]}, 200),
    "GET /openapi.json": ("/openapi.json", None, 200),
    "GET /docs": ("/docs", None, 200),
    "GET /docs/oauth2-redirect": ("/docs/oauth2-redirect", None, 200),
    "GET /redoc": ("/redoc", None, 200),
    "GET /static": ("/static/chat/index.html", None, 200),
}


def test_every_route_of_the_started_server_answers(server: Server) -> None:
    answered = {}
    for route, (path, body, _) in REQUESTS.items():
        answer = (
            server.post(path, body)
            if body is not None
            else httpx.get(server.address + path, timeout=100)
        )
        answered[route] = answer.status_code
    assert answered == {route: status for route, (_, _, status) in REQUESTS.items()}


def test_every_route_that_feast_has_is_asked(ann: Warehouse) -> None:
    routes = get_app(store(ann.settings.root)).routes
    known = {
        f"{method} {route.path}"
        for route in routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert known | {"GET /static", "GET /metrics", "POST /features"} == REQUESTS.keys()
    assert {route.path for route in routes if not isinstance(route, Route)} == {
        "/static",
        "/ws/chat",
    }


def test_the_socket_of_the_started_server_answers(server: Server) -> None:
    async def ask() -> str:
        async with websockets.connect(f"{server.address.replace('http', 'ws')}/ws/chat") as socket:
            await socket.send("hello")
            return str(await asyncio.wait_for(socket.recv(), 60))

    assert asyncio.run(ask()).strip() == "You"


# --- our own route ---

MEAN = "author_activity:mean_characters_lifetime"
ROWS = {
    "author_id": ["ann", None, "nobody", "ann"],
    "event_timestamp": ["2026-02-11T15:00:00+05:00", "2026-02-11", "2026-02-11", "2026-02-12"],
}


def test_our_own_route_answers_as_the_function_and_as_feasts(server: Server) -> None:
    server.post("/materialize", SPAN).raise_for_status()
    features = [COUNT, MEAN, TENURE]
    body = {"features": features, "entities": ROWS}
    answer = server.post("/features", body)
    assert answer.status_code == 200, answer.text
    rows = [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values(), strict=True)]
    found = online_features(features, rows, server.home).drop(*ROWS)
    assert answer.json() == found.to_dict(as_series=False)
    assert answer.json()["author_activity__n_records_lifetime"] == [2, None, 0, 2]
    feasts = server.post("/get-online-features", body | {"full_feature_names": True}).json()
    names = feasts["metadata"]["feature_names"]
    values = [result["values"] for result in feasts["results"]]
    assert answer.json().items() <= dict(zip(names, values, strict=True)).items()


def test_our_own_route_computes_a_text_and_reads_a_service(server: Server) -> None:
    server.post("/materialize", SPAN).raise_for_status()
    entities = {"text": ["a note of one", None], "author_id": ["ann", "nobody"]}
    body = {"feature_service": "activity_v1", "entities": entities | {"subject_id": [None, None]}}
    read = server.post("/features", body).json()
    assert read["author_activity__n_records_lifetime"] == [2, 0]
    text = server.post("/features", {"features": ["record_quality:n_words"], "entities": entities})
    assert text.json() == {"record_quality__n_words": [4, None]}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([], 'write {"features"'),
        ({"features": [COUNT]}, 'write {"features"'),
        ({"features": [1], "entities": {}}, 'write {"features"'),
        ({"features": [COUNT], "entities": {"author_id": "ann"}}, "lists of one length"),
        ({"features": [COUNT], "entities": {"author_id": [1], "a": []}}, "lists of one length"),
        ({"features": [COUNT], "entities": {"writer": ["ann"]}}, "the rows have no 'author_id'"),
        ({"features": ["nobody:n"], "entities": {"author_id": ["ann"]}}, "nobody"),
        ({"features": [COUNT], "entities": {"author_id": [["ann"]]}}, "'author_id' is STRING"),
        (
            {"features": [COUNT], "entities": {"author_id": ["a"], "event_timestamp": [7]}},
            "'event_timestamp'",
        ),
    ],
)
def test_a_mistake_to_our_own_route_is_answered_with_its_reason(
    server: Server, body: Any, reason: str
) -> None:
    answer = server.post("/features", body)
    assert answer.status_code in {404, 422}
    assert reason in json.loads(answer.json())["message"]


# --- instants over HTTP ---


def tenure(server: Server, *instants: Any) -> list[float | None]:
    answer = server.post(
        "/get-online-features",
        {
            "features": [TENURE],
            "entities": {"author_id": ["ann"] * len(instants), "event_timestamp": instants},
        },
    )
    assert answer.status_code == 200, answer.text
    values: list[float | None] = answer.json()["results"][-1]["values"]
    return values


def test_instants_over_http_are_the_instants_that_they_name(server: Server) -> None:
    server.post("/materialize", SPAN).raise_for_status()
    assert (
        tenure(
            server,
            "2026-02-11T15:00:00+05:00",
            "2026-02-11T10:00:00Z",
            "2026-02-11 15:30+05:30",
            "20260211T100000Z",
        )
        == [41.0] * 4
    )
    assert tenure(server, "2026-02-11T10:00:00", None, "2026-02-11") == [
        41.0,
        None,
        40.583333333333336,
    ]


@pytest.mark.parametrize(
    "instant",
    [1768125600, 1768125600.5, "1768125600", "01/11/2026", "2026-01-11T10:00:00+25:00", True],
)
def test_what_is_no_instant_over_http_is_the_clients_to_mend(server: Server, instant: Any) -> None:
    body = {"features": [TENURE], "entities": {"author_id": ["ann"], "event_timestamp": [instant]}}
    answer = server.post("/get-online-features", body)
    assert answer.status_code == 422
    message = json.loads(answer.json())["message"]
    assert "'event_timestamp'" in message
    assert "2026-01-02T10:00:00Z" in message
    assert "\n" not in message


def quality(instant: Any) -> dict[str, Any]:
    """A row for the view record_quality, all of whose features are numbers."""
    numbers = {
        column.name: [0] if str(column.dtype) == "Int64" else [0.0]
        for column in RecordQuality.columns()
    }
    rows = {
        **numbers,
        "record_id": ["written"],
        "event_timestamp": [instant],
        "created_timestamp": [instant],
    }
    return {"feature_view_name": "record_quality", "df": rows}


def test_rows_written_over_http_count_from_the_instant_that_they_name(server: Server) -> None:
    assert (
        server.post("/write-to-online-store", quality("2026-01-03T15:00:00+05:00")).status_code
        == 200
    )
    body = {"features": ["record_quality:n_words"], "entities": {"record_id": ["written"]}}
    assert server.post("/get-online-features", body).json()["results"][-1]["event_timestamps"] == [
        "2026-01-03T10:00:00Z"
    ]


@pytest.mark.parametrize("instant", [1768125600, "03/01/2026"])
def test_rows_written_over_http_say_when_they_were_true(server: Server, instant: Any) -> None:
    answer = server.post("/write-to-online-store", quality(instant))
    assert answer.status_code == 422
    assert "'event_timestamp'" in json.loads(answer.json())["message"]
