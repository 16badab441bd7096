"""Where a port of a model leaves the reference, and why."""
