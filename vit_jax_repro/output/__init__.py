"""What people read: files, messages and tables."""
