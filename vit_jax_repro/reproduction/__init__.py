"""Checks of published numbers: resolving a row, running it, its result."""
