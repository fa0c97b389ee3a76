"""The extent of a container by its own structure, to compare the decoded length with the length sent."""
