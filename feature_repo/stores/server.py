"""What Feast's feature server gets at its start.

Writes of nulls, reasons for bad requests, and what `watched_server` tells of it.
"""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from feast import FeatureStore, errors

from feature_repo.stores.store import Store
from feature_repo.stores.values import RequestError
from feature_repo.stores.watched_server import watch

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


def load_artifacts(app: FastAPI) -> None:
    """Prepare a server's process.

    Feast calls this, from `static_artifacts.py`, with its application.
    """
    for name in ("write_to_online_store", "write_to_online_store_async"):
        setattr(FeatureStore, name, getattr(Store, name))
    for mistake in MISTAKES:
        app.add_exception_handler(mistake, explain)
    app.middleware_stack = None  # rebuilt by the next request, with these handlers
    watch(app)


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
