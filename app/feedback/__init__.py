"""Feedback on answers: recent requests in memory, corrected rows on disk, a data set to train on."""
