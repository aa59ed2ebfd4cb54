"""What the feature server tells of itself: `/health`, `/metrics`, and its answers to the log.

Feast's own metrics are off unless it is started with `--metrics`; these are counted always, by
route and by feature. How fresh a view is belongs into `feature_repo.watching.freshness`.
"""

import functools
import inspect
import logging
import os
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, perf_counter, time
from typing import Any, TypeAlias

from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from feast import FeatureService, FeatureStore
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from feature_repo.registry_digest import OURS, is_named
from feature_repo.stores.online import Read, Stored, _nanoseconds, watchers
from feature_repo.stores.served import log_response
from feature_repo.stores.served_log import flush, log_of
from feature_repo.stores.serving import Plan, resolve
from feature_repo.stores.sources import warehouse_folder
from feature_repo.watching.freshness import as_of, promised_views
from transforms.errors import MillraceError

MINUTE, HOUR, DAY = 60, 3600, 86_400
AGES = (MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY, 28 * DAY, 365 * DAY)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
PLAN_SECONDS = 60  # after which a request is resolved again, for the registry may have changed
OF_FEATURE = ["view", "feature"]
Scope: TypeAlias = MutableMapping[str, Any]

logger = logging.getLogger(__name__)
_metrics = CollectorRegistry()
requests = Counter(
    "millrace_requests", "Requests by route and status.", ["route", "status"], registry=_metrics
)
latency = Histogram(
    "millrace_request_seconds",
    "Seconds until a request was answered.",
    ["route"],
    buckets=SECONDS,
    registry=_metrics,
)
values = Counter("millrace_values", "Values read online.", OF_FEATURE, registry=_metrics)
nulls = Counter(
    "millrace_null_values", "Values read online that are null.", OF_FEATURE, registry=_metrics
)
ages = Histogram(
    "millrace_value_age_seconds",
    "Seconds since the event timestamp of what was read of an entity.",
    ["view"],
    buckets=AGES,
    registry=_metrics,
)


def watch(app: FastAPI) -> None:
    """Watch a server's process, with no middleware built yet."""
    home = warehouse_folder(store_of(app).config)
    _replace_health(app, home)

    @app.get("/metrics", response_class=Response)
    def metrics() -> Response:
        return Response(render(home), media_type=CONTENT_TYPE_LATEST)

    app.add_middleware(Measured)
    if count_values not in watchers:
        watchers.append(count_values)
        for name in ("get_online_features", "get_online_features_async"):
            setattr(FeatureStore, name, logged(getattr(FeatureStore, name)))
        FeatureStore.close = flushed(FeatureStore.close)


class Measured:
    """Counts requests and their seconds."""

    def __init__(self, app: Any) -> None:
        """Take what answers."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer, and count."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = perf_counter(), 500

        async def sending(message: Scope) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            # a path that is no route could be anything, and each one would be kept
            route = getattr(scope.get("route"), "path", "other")
            requests.labels(route, str(status)).inc()
            latency.labels(route).observe(perf_counter() - started)


def count_values(reads: Sequence[Read], found: Sequence[Sequence[Stored]]) -> None:
    """Count what was read of each feature, and how old it was."""
    now = time()
    for read, stored in zip(reads, found, strict=True):
        view = read.table.name
        for feature, column in zip(read.requested_features, stored, strict=True):
            values.labels(view, feature).inc(len(column.values))
            nulls.labels(view, feature).inc(sum(not value for value in column.values))
        for instant, n in Tally(stored[0].instants if stored else ()).items():
            if instant is not None:
                for _ in range(n):
                    ages.labels(view).observe(max(0.0, now - _nanoseconds(instant) / 1e9))


def render(home: Path) -> bytes:
    """Write all metrics, those of other workers too, and how fresh the home's views are."""
    shared = os.environ.get("PROMETHEUS_MULTIPROCESS_DIR")
    counted = CollectorRegistry() if shared else _metrics
    if shared:
        MultiProcessCollector(counted, shared)  # type: ignore[no-untyped-call]
    fresh = CollectorRegistry()
    fresh.register(Fresh(home))
    return bytes(generate_latest(counted) + generate_latest(fresh))


class Fresh(Collector):
    """How long ago views were brought up to date, when it is asked for."""

    def __init__(self, home: Path) -> None:
        """Take the home."""
        self._home = home

    def collect(self) -> Iterator[Metric]:
        """Measure."""
        now = datetime.now(UTC)
        age = GaugeMetricFamily(
            "millrace_view_age_seconds",
            "Seconds since a run brought the view up to date.",
            labels=["view"],
        )
        late = GaugeMetricFamily(
            "millrace_view_late",
            "1 where the view is later than its fresh_within promises.",
            labels=["view"],
        )
        for view, at in as_of(self._home).items():
            age.add_metric([view], (now - at).total_seconds())
        for item in promised_views(self._home):
            late.add_metric([item.view], float(item.is_late(now)))
        yield from (age, late)


def health(store: FeatureStore, home: Path) -> Response:
    """Answer 200 where values can be served, and say which views are late.

    Late values are served all the same, so that no supervisor restarts a server over them.
    """
    try:
        store.registry.list_projects(allow_cache=True)
    except Exception:  # noqa: BLE001 - as Feast answers
        return Response(status_code=503)
    is_ours = getattr(store.config.registry, "registry_store_type", None) == OURS
    if is_ours and not is_named(home / "feast" / "registry.db"):
        reason = "the registry in the home is not the pipeline's; the one before it is served"
        return JSONResponse({"status": "unknown", "late": [], "reason": reason})
    now = datetime.now(UTC)
    try:
        late = [item.words(now) for item in promised_views(home) if item.is_late(now)]
    except MillraceError as error:  # a declaration that is being edited
        return JSONResponse({"status": "unknown", "late": [], "reason": str(error)})
    return JSONResponse({"status": "late" if late else "ok", "late": late})


def logged(ask: Callable[..., Any]) -> Callable[..., Any]:
    """Have the answers of a method of Feast's store logged."""
    if inspect.iscoroutinefunction(ask):

        @functools.wraps(ask)
        async def answered_later(
            store: FeatureStore, features: Any, entity_rows: Any, *others: Any, **options: Any
        ) -> Any:
            asked: Callable[..., Awaitable[Any]] = ask
            read_at = datetime.now(UTC)
            response = await asked(store, features, entity_rows, *others, **options)
            _log(store, features, entity_rows, response, read_at)
            return response

        return answered_later

    @functools.wraps(ask)
    def answered(
        store: FeatureStore, features: Any, entity_rows: Any, *others: Any, **options: Any
    ) -> Any:
        read_at = datetime.now(UTC)
        response = ask(store, features, entity_rows, *others, **options)
        _log(store, features, entity_rows, response, read_at)
        return response

    return answered


def flushed(close: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Have what waits logged before a store is closed: a worker ends by a signal, with no exit."""

    @functools.wraps(close)
    async def closed(store: FeatureStore) -> None:
        await run_in_threadpool(flush, warehouse_folder(store.config))
        await close(store)

    return closed


def _log(store: FeatureStore, features: Any, rows: Any, response: Any, read_at: datetime) -> None:
    try:
        if (log := log_of(store)) is None:
            return
        asked = features.name if isinstance(features, FeatureService) else tuple(features)
        plan = _plan(store, asked, int(monotonic() / PLAN_SECONDS))
        log_response(log, plan, _columns(rows), response.proto, read_at)
    except Exception as error:  # noqa: BLE001 - no log is worth an answer
        logger.warning("served values were not logged: %s", type(error).__name__)


@functools.lru_cache(maxsize=1024)
def _plan(store: FeatureStore, features: Any, _minute: int) -> Plan:
    return resolve(store, features)


def _columns(rows: Any) -> dict[str, Sequence[Any]]:
    if isinstance(rows, Iterable) and not isinstance(rows, MutableMapping):
        rows = list(rows)
        return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    return {name: getattr(column, "val", column) for name, column in rows.items()}


def _replace_health(app: FastAPI, home: Path) -> None:
    store = store_of(app)
    app.router.routes[:] = [
        route for route in app.router.routes if getattr(route, "path", "") != "/health"
    ]

    @app.get("/health")
    async def answer() -> Response:
        return await run_in_threadpool(health, store, home)


def store_of(app: FastAPI) -> FeatureStore:
    """Find the store that an application serves, which only its routes have, as a variable."""
    (route,) = (
        route
        for route in app.router.routes
        if isinstance(route, APIRoute) and route.path == "/health"
    )
    return inspect.getclosurevars(route.endpoint).nonlocals["store"]
