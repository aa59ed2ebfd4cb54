"""What happens to data: pure functions of frames, SQL models, contracts, and the warehouse they read and write.

Belongs here: parsing, mapping, validation, features. Does not: when and in what order (`flows`), what is served
(`feature_repo`). Imports neither Prefect nor Feast.
"""
