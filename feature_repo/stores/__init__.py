"""Feast plug-ins: the offline store, the online stores, the materialization engine, the registry's file."""

import feature_repo.importing  # noqa: F401
