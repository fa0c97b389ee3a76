"""`overtone bench`: this engine beside plain transformers and PEFT, in one run on one model."""
