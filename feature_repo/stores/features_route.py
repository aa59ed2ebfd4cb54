"""`POST /features`: what `online_features` reads, as JSON, without the messages between.

The body is that of Feast's `/get-online-features`, whose answer has a proto's shape.
"""

import base64
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from time import monotonic
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from feast import FeatureService, FeatureStore
from feast.permissions.action import AuthzedAction
from feast.permissions.security_manager import (
    assert_permissions,
    get_security_manager,
    is_auth_necessary,
)
from feast.permissions.server.rest import inject_user_details

from feature_repo.guard import too_many_rows
from feature_repo.stores.serving import OpenStore, Plan
from feature_repo.stores.values import RequestError

PATH = "/features"
PLAN_SECONDS = 60
_identified = asynccontextmanager(inject_user_details)


def add_features_route(app: FastAPI, store: FeatureStore, max_rows: int) -> None:
    """Add the route to a server of a store."""
    app.add_api_route(PATH, _route(store, max_rows), methods=["POST"], name="features")


def _route(store: FeatureStore, max_rows: int) -> Callable[[Request], Awaitable[Response]]:
    async def features(request: Request) -> Response:
        """Read features online, by column: `{"view__feature": [a value for each row]}`."""
        async with _identified(request):
            asked = parsed(await request.body(), max_rows)
            content = await run_in_threadpool(_answer, _opened(store, _state(store)), *asked)
        return Response(content, media_type="application/json")

    return features


@lru_cache(maxsize=1)
def _opened(store: FeatureStore, _state: object) -> OpenStore:
    """Forget the plans of requests when the registry has changed; the store itself stays."""
    return OpenStore(store)


def _state(store: FeatureStore) -> object:
    """What changes with the registry; of one that is no file, the minute."""
    path = getattr(store.registry, "_file_path", None)
    if path is None:
        return int(monotonic() / PLAN_SECONDS)
    found = path.stat()
    return (found.st_mtime_ns, found.st_size)


def parsed(body: bytes, max_rows: int) -> tuple[list[str] | str, Mapping[str, list[Any]]]:
    """Read what is asked for, features or a service, and of which entities.

    Raises RequestError where the body is not as it must be, or has too many rows.
    """
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = f"the body is no JSON: {error}"
        raise RequestError(message) from None
    match asked:
        case {"feature_service": str(features), "entities": dict(entities)}:
            pass
        case {"features": list(features), "entities": dict(entities)} if all(
            isinstance(name, str) for name in features
        ):
            pass
        case _:
            message = (
                'write {"features": ["view:feature"], "entities": {"key": [values]}}, or '
                '"feature_service": "name" in place of features'
            )
            raise RequestError(message)
    lengths = {len(column) if isinstance(column, list) else -1 for column in entities.values()}
    if len(lengths) > 1 or -1 in lengths:
        message = "the columns of entities must be lists of one length"
        raise RequestError(message)
    if refusal := too_many_rows(max(lengths, default=0), max_rows):
        raise RequestError(refusal)
    return features, entities


def _answer(
    store: OpenStore, features: list[str] | str, entities: Mapping[str, list[Any]]
) -> bytes:
    if is_auth_necessary(get_security_manager()):
        _refuse_not_permitted(store.plan_of(features, entities))
    found = store.read_columns(features, entities)
    return orjson.dumps(found.to_dict(as_series=False), default=_as_json)


def _refuse_not_permitted(plan: Plan) -> None:
    """Refuse what Feast's permissions do not allow to whoever asks, as its own route does."""
    resources = (
        [plan.references]
        if isinstance(plan.references, FeatureService)
        else [*(view.table for view in plan.views), *plan.on_demand]
    )
    for resource in resources:
        assert_permissions(resource=resource, actions=[AuthzedAction.READ_ONLINE])


def _as_json(value: Any) -> Any:
    """Write what JSON has no type for: bytes in base64, sets as lists, the rest as text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return list(value) if isinstance(value, set | frozenset) else str(value)
