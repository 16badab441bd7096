"""Training: the device mesh, and what is built on it."""
