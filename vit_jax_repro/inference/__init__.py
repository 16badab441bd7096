"""Models restored from weights files, and what they are used for."""
