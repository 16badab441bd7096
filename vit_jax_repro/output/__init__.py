"""Files, messages and tables that users read."""
