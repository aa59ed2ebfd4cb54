"""The features that are served, derived from the declarations; the one file `feast apply` scans."""

import feature_repo.importing  # noqa: F401

# isort: split
from feast import Entity, FeatureService, ValueType

from feature_repo.derived import on_demand_view
from feature_repo.fields import FEAST_TYPES, feature_view
from feature_repo.on_demand import requested_service, requested_view
from transforms.features.on_demand import on_demand_views
from transforms.features.registry import registry, view_name
from transforms.home import Settings

_declared = registry()
_joined_by = {
    entity.columns[0]: Entity(
        name=entity.name,
        join_keys=entity.columns,
        value_type=ValueType.STRING,
        description=entity.description,
    )
    for entity in _declared.entities.values()
    if len(entity.columns) == 1
}
# of several keys each is an entity for Feast: one that is declared, else one of its own
_joined_by |= {
    column: Entity(
        name=column,
        join_keys=[column],
        value_type=ValueType.STRING,
        description=f"A key of {entity.name}.",
    )
    for entity in _declared.entities.values()
    for column in entity.columns
    if column not in _joined_by
}
_feature_views = {
    name: feature_view(
        view.contract,
        [_joined_by[column] for column in view.entity.columns],
        online_for=view.online_for,
    )
    for name, view in _declared.views.items()
}
_derived_views = {
    name: on_demand_view(
        name,
        [_feature_views[view][features] for view, features in found.features_by_view.items()],
        found.expressions,
        {feature: FEAST_TYPES[dtype] for feature, dtype in found.types.items()},
        _declared.derived[name].description,
    )
    for name, found in _declared.derivations.items()
}

_on_demand_views = {name: requested_view(name, Settings().root) for name in on_demand_views()}


def _served(reference: str) -> object:
    """What a service names: a view, or of `view:feature` the view with that feature alone."""
    view, _, feature = reference.partition(":")
    found = (_feature_views | _derived_views)[view]
    return found[[feature]] if feature else found


_services = [
    FeatureService(
        name=name,
        features=[_served(view_name(item)) for item in service.features],
        description=service.description,
    )
    for name, service in _declared.services.items()
]
_services += filter(
    None,
    (requested_service(item, _served, _on_demand_views) for item in _declared.services.values()),
)
# Feast finds what is a value of this module
globals().update({f"entity_{entity.name}": entity for entity in _joined_by.values()})
globals().update(
    {
        item.name: item
        for views in (_feature_views, _derived_views, _on_demand_views)
        for item in views.values()
    }
    | {service.name: service for service in _services}
)
