"""What is asked for by name: features as `view:feature`, whole views, and services."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import feature_repo.importing  # noqa: F401

# isort: split
from feast import FeatureStore

from transforms.errors import FeatureNameError
from transforms.features.registry import ON_DEMAND


def known(store: FeatureStore, features: "Sequence[str] | str") -> list[str] | str:
    """Return a service's name as it is, and of a list each feature once, as `view:feature`.

    The name of a view or a service in a list means all of its features. Raises `FeatureNameError`
    for a name that the registry does not have, with those that are near.
    """
    services = {
        service.name: [
            f"{view.name}:{feature.name}"
            for view in service.feature_view_projections
            for feature in view.features
        ]
        for service in store.list_feature_services()
    }
    if isinstance(features, str):
        if features not in services:
            raise FeatureNameError(_unknown("service", features, services))
        return features
    views = {
        view.name: [f"{view.name}:{feature.name}" for feature in view.features]
        for view in store.list_all_feature_views()
    }
    return list(dict.fromkeys(name for asked in features for name in _each(asked, views, services)))


def _each(
    asked: str, views: Mapping[str, Sequence[str]], services: Mapping[str, Sequence[str]]
) -> Sequence[str]:
    view, _, feature = asked.partition(":")
    whole = {**services, **views}
    if not feature:
        if view not in whole:
            raise FeatureNameError(_unknown("view or service", view, whole))
        return whole[view]
    name = view.partition("@")[0]  # after which Feast writes a version
    if name not in views:
        raise FeatureNameError(_unknown("view", name, views))
    if asked not in views[name] and name == view:
        there = [known.partition(":")[2] for known in views[name]]
        message = f"{name}: {_unknown('feature', feature, there)}"
        raise FeatureNameError(message)
    return [asked]


def _unknown(kind: str, name: str, there: "Mapping[str, object] | Sequence[str]") -> str:
    names = sorted(known for known in there if not known.endswith(ON_DEMAND))
    near = get_close_matches(name, names, 3)
    return f"there is no {kind} {name!r}; " + (
        f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
    )
