"""The registry: the folder of adapters, its manifests, validation, versions and sources."""
