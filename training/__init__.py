"""Training: recipes that end in model folders and adapters the service can load."""
