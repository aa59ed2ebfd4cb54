"""What Feast's feature server gets at its start.

Guards, writes of nulls, reasons for bad requests, and what `watched_server` tells of it.
"""

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from feast import FeatureStore, errors, feature_server, feature_server_utils
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.guard import (
    Authorized,
    Bounded,
    known_tokens,
    server_settings,
    too_many_rows,
)
from feature_repo.registry_digest import has_digest
from feature_repo.stores.features_route import add_features_route
from feature_repo.stores.registry import AtomicFileRegistryStore
from feature_repo.stores.store import Store
from feature_repo.stores.values import RequestError
from feature_repo.stores.watched_server import store_of, watch

# Feast answers these with 500
MISTAKES = (
    ValueError,
    TypeError,
    KeyError,
    errors.FeatureNameCollisionError,
    errors.SpecifiedFeaturesNotPresentError,
    errors.InvalidFeaturesParameterType,
    errors.DataFrameSerializationError,
)
# Feast's routes that only read, which are all that a server has unless it is asked to have more
READING = {
    "/get-online-features",
    "/search",
    "/retrieve-online-documents",
    "/v1/vector_stores",
    "/v1/vector_stores/{vector_store_id}",
    "/v1/vector_stores/{vector_store_id}/search",
    "/health",
    "/openapi.json",
    "/docs",
    "/docs/oauth2-redirect",
    "/redoc",
}
READS = ("get_online_features", "get_online_features_async")
SEARCHES = ("retrieve_online_documents", "retrieve_online_documents_v2")

logger = logging.getLogger(__name__)
_written = feature_server_utils._timestamp_to_str  # noqa: SLF001 - it has no public name


class Answer(JSONResponse):
    """An answer of Feast's, written by orjson."""

    def render(self, content: Any) -> bytes:
        """Write the same JSON as Feast does."""
        return orjson.dumps(content)


def load_artifacts(app: FastAPI) -> None:
    """Prepare a server's process; end it if that fails, for Feast would serve unguarded.

    Feast calls this, from `static_artifacts.py`, with its application.
    """
    try:
        _prepare(app)
    except Exception as error:
        logger.critical("millrace: %s", error)
        raise SystemExit(1) from error


def _prepare(app: FastAPI) -> None:
    settings, store = server_settings(), store_of(app)
    has_digest(store.config.registry.model_dump(), "feature_store.yaml")
    in_file = getattr(store.registry, "_registry_store", None)
    if isinstance(in_file, AtomicFileRegistryStore):
        in_file.is_read_only = not settings.writes
    for name in ("write_to_online_store", "write_to_online_store_async"):
        setattr(FeatureStore, name, getattr(Store, name))
    for mistake in MISTAKES:
        app.add_exception_handler(mistake, explain)
    if not settings.writes:
        app.router.routes[:] = [
            route for route in app.router.routes if getattr(route, "path", "") in READING
        ]
    add_features_route(app, store, settings.max_rows)
    app.middleware_stack = None  # rebuilt by the next request, with these handlers
    app.add_middleware(Bounded, settings=settings)
    is_known = known_tokens(settings, store.config.auth_config)
    app.add_middleware(Authorized, is_known=is_known, open_metrics=settings.open_metrics)
    watch(app)
    _bound_rows(settings.max_rows)
    _quicken()


def _quicken() -> None:
    """Have Feast's route write each instant once, where it writes it for each value of each row.

    That was a third of the processor time of 100 rows with 20 features.
    """
    feature_server_utils._timestamp_to_str = instant_in_words  # noqa: SLF001
    feature_server.JSONResponse = Answer


def instant_in_words(instant: Timestamp) -> str:
    """Write an instant as Feast does.

    >>> instant_in_words(Timestamp(seconds=1, nanos=500_000_000))
    '1970-01-01T00:00:01.500Z'
    """
    return _in_words(instant.seconds, instant.nanos)


@functools.lru_cache(maxsize=1 << 16)
def _in_words(seconds: int, nanos: int) -> str:
    return str(_written(Timestamp(seconds=seconds, nanos=nanos)))


def explain(_: Request, mistake: Exception) -> JSONResponse:
    """Answer a client's mistake with its reason, as Feast words its errors.

    422 if it has no status.
    """
    error = (
        mistake
        if isinstance(mistake, errors.FeastError)
        else RequestError(str(mistake.args[0]) if mistake.args else type(mistake).__name__)
    )
    status = error.http_status_code()
    return JSONResponse(
        status_code=422 if status == HTTPStatus.INTERNAL_SERVER_ERROR else status,
        content=error.to_error_detail(),
    )


def _bound_rows(most: int) -> None:
    """Have Feast's store refuse requests of more rows, by whatever route they come."""
    for name, argument in [
        *((name, "entity_rows") for name in READS),
        *((name, "top_k") for name in SEARCHES),
    ]:
        setattr(FeatureStore, name, _bounded(getattr(FeatureStore, name), argument, most))


def _bounded(ask: Callable[..., Any], argument: str, most: int) -> Callable[..., Any]:
    place = list(inspect.signature(ask).parameters).index(argument)

    @functools.wraps(ask)
    def asked(*given: Any, **named: Any) -> Any:
        rows = named[argument] if argument in named else given[place]
        if rows and (message := too_many_rows(_n_rows(rows), most)):
            raise RequestError(message)
        return ask(*given, **named)

    return asked


def _n_rows(asked: Any) -> int:
    if isinstance(asked, Mapping):
        columns: list[Any] = [getattr(column, "val", column) for column in asked.values()]
        return max(map(len, columns), default=0)
    return asked if isinstance(asked, int) else len(asked)
