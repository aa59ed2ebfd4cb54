"""Engines: what runs a function over the parts of a table, here or on other machines.

An engine moves nothing but small tasks and answers. Workers read and write the files of the home
themselves, by the code that a run without an engine uses. No engine knows what is computed.
"""
