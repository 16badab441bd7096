"""The published weights files: their names, where they are, getting them."""
