"""Comparison of PyTorch ports with the reference, layer by layer."""
