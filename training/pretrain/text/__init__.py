"""Lines for the synthetic voices, and the tasks that the model is given about them."""
