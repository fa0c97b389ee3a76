"""Training jobs: a folder each on disk, a child process each while they run."""
