"""How each kind of view is computed."""
