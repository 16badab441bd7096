"""Models restored from weights files: evaluation, prediction, few-shot."""
