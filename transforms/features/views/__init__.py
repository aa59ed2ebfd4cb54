"""The views and services that are shipped: one declaration a file."""
