"""Measurements of speed; a verb prints them."""
