"""Pushing a model until it breaks: ladders of light and blur on high-dose stacks, and what follows from them."""
