"""`overtone bench --soak`: a live server under everything at once, each answer compared with plain PEFT's."""
