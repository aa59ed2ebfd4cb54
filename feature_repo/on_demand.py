"""Record views that Feast serves for a text in a request, by the kernels of a run.

Beside `record_quality`, which is stored, there is `record_quality_on_demand`, which takes the text;
beside each service whose views of records are all so, the service with them in their place, under
the names that a model was trained on.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MethodType
from typing import Any

import feature_repo.importing  # noqa: F401

# isort: split
import polars as pl
from feast import FeatureService, Field, OnDemandFeatureView, RequestSource
from feast.transformation.udf_rehydrate import rehydrate_udf_from_source
from feast.types import String, UnixTimestamp

from feature_repo.fields import FEAST_TYPES
from feature_repo.stores.asked_home import asked_home
from feature_repo.stores.serving import TREATMENT, VIEW
from transforms.errors import DerivedError
from transforms.features.declare import Service
from transforms.features.on_demand import carried, compute, on_demand_views, requested
from transforms.features.registry import ON_DEMAND, registry, view_name
from transforms.features.view import View
from transforms.staging.treatment import treatments

# Feast runs this text wherever it reads the view from its registry
SOURCE = """def on_demand(inputs):
    from feature_repo.on_demand import answer
    return answer({view!r}, {code!r}, {treatment!r}, inputs)
"""


def requested_view(name: str, home: Path) -> OnDemandFeatureView:
    """Define the view that computes a record view of the texts in a request.

    Its code and how the home treats texts are in it, so that it is registered again where they
    change.
    """
    view = on_demand_views()[name]
    columns = {column.name: column for column in view.contract.columns()}
    code, treatment = f"{view.digest():x}", dict(treatments(home))
    source = SOURCE.format(view=name, code=code, treatment=treatment)
    made = OnDemandFeatureView(
        name=name + ON_DEMAND,
        sources=[_request(tuple(carried(view)))],
        schema=[
            # without descriptions, which Feast drops of a view that it reads from the registry
            Field(name=feature, dtype=FEAST_TYPES[columns[feature].dtype])
            for feature in view.features
        ],
        mode="python",
        udf=rehydrate_udf_from_source(source),
        udf_string=source,
        description=f"{view.description}\n\nOf a text in a request.",
        tags={VIEW: name, "code": code, TREATMENT: json.dumps(treatment)},
    )
    # types come from the contract; Feast would compute a sample, of which features may be null
    made.infer_features = MethodType(lambda _: None, made)
    return made


@lru_cache
def _request(columns: tuple[str, ...]) -> RequestSource:
    types = {"event_timestamp": UnixTimestamp}
    return RequestSource(
        name="_".join(["request", *columns]),
        schema=[Field(name=column, dtype=types.get(column, String)) for column in columns],
        description="What a request says of a record that is not stored.",
    )


def requested_service(
    service: Service, served: Callable[[str], Any], views: Mapping[str, OnDemandFeatureView]
) -> FeatureService | None:
    """Define a service with its record views computed of a request; None if some cannot be."""
    features = [_in_place(view_name(item), served, views) for item in service.features]
    is_changed = any(
        isinstance(item, OnDemandFeatureView) and VIEW in item.tags for item in features
    )
    if None in features or not is_changed:
        return None
    return FeatureService(
        name=service.name + ON_DEMAND,
        features=features,
        description=f"{service.name} of a text in a request. {service.description}",
    )


def _in_place(
    reference: str, served: Callable[[str], Any], views: Mapping[str, OnDemandFeatureView]
) -> Any:
    """What a service names, or in place of a record view the one on demand under its name."""
    name, _, feature = reference.partition(":")
    read = registry().derived[name].of if name in registry().derived else [name]
    if not any(registry().views[view_name(item)].is_of_records for item in read):
        return served(reference)
    if name not in views:
        return None
    view = views[name][[feature]] if feature else views[name]
    return view.with_name(name)


def answer(
    name: str, code: str, treatment: Mapping[str, str], request: Mapping[str, Sequence[Any]]
) -> dict[str, list[Any]]:
    """Answer Feast: each feature by its name alone and by those that it has in services."""
    found = computed({name: code}, treatment, request, asked_home())[name]
    values = {feature: found[feature].to_list() for feature in found.columns}
    prefixes = ("", f"{name}__", f"{name}{ON_DEMAND}__")
    return {f"{prefix}{feature}": values[feature] for prefix in prefixes for feature in values}


def computed(
    codes: Mapping[str, str],
    treatment: Mapping[str, str],
    request: Mapping[str, Sequence[Any]],
    home: Path | None = None,
) -> dict[str, pl.DataFrame]:
    """Compute the features of views, each registered with a code, which must be the code here.

    `home` is the one that is asked.
    """
    views, versions = on_demand_views(), requested(request, treatment)
    for name, code in codes.items():
        _refuse_other_code(views[name], code)
    return {name: compute(views[name], versions, home)[views[name].features] for name in codes}


@lru_cache
def _refuse_other_code(view: View, code: str) -> None:
    if f"{view.digest():x}" != code:
        message = (
            f"{view.name}: this process has other code than the one that the view was registered "
            "with; run the pipeline here, then restart the server"
        )
        raise DerivedError(message)
