"""Shapley contributions: what every step of every gene adds to the loss, on average over orders of the steps."""
