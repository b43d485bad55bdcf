"""Run folders, what lies in them, and how processes agree on them."""
