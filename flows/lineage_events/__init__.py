"""OpenLineage events of runs, for catalogs such as Marquez, DataHub or Atlan.

Nothing of a record is in an event: names, types, counts and versions of tables are.
"""
