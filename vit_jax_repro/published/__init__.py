"""The published weights files: names, addresses and download."""
