"""Feast plug-ins: offline store, online stores, materialization engine and registry file."""

import feature_repo.importing  # noqa: F401
