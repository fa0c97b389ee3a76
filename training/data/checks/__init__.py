"""Checks of rows and recordings before a run, and the report of what they found."""
