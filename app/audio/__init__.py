"""Recordings: files to samples."""
