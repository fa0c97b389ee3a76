"""The recipe of `overtone-tiny`: synthesise speech, train the base, train two adapters, evaluate."""
