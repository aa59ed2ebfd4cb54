"""What happens to data: pure functions of frames, SQL models, contracts, and the warehouse.

Parsing, mapping, validation and features belong here. When and in what order they run does not
(`flows`), nor what is served (`feature_repo`). Nothing here imports Prefect or Feast.
"""
