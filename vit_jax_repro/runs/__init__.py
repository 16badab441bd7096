"""Training runs: settings, workdir, checkpoints, training loop, dry runs."""
