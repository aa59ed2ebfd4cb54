"""How features are computed."""
