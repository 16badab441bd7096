"""Analyses of models and compiled programs, and figures of the results."""
