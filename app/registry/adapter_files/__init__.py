"""An adapter's files: reading, one translation of keys and patterns, validation, descriptions."""
