"""The published numbers, which of them can be checked, and verdicts."""
