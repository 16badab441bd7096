"""One run: its settings, its folder, its files; training and restoring."""
