"""How good a model is on matched volumes, beside classical methods."""
