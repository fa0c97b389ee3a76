"""A model's weights: read from checkpoints, checked, quantised, written, drawn at random."""
