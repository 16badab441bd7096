"""What models are like: what they cost."""
