"""What can be done to a network: quantizers, correction, standalone modules and packed files."""
