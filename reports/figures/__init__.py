"""The paper's Figures 1, 3 and 4, drawn from a trained model and an episode of its test."""
