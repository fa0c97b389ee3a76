"""How far a container goes by its own structure, so that what was decoded can be compared with what was sent."""
