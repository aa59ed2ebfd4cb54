"""Feast plug-ins: the offline store."""
