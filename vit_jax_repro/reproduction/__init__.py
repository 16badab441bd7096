"""Checking published numbers: what a row means, running it, its result."""
