"""Models for programs without this package: ONNX and StableHLO files."""
