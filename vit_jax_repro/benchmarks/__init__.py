"""Measurements of speed, compile time and memory (`benchmark`)."""
