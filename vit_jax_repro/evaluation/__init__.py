"""Measuring a model: accuracy in which every image counts once."""
