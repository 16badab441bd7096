"""Published numbers, the ways to check them, and verdicts on measurements."""
