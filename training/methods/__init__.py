"""The parts that are trained: PEFT adapters, classifiers, and the forward pass that both share with the engine."""
