"""Statistics of the float network that tell which weights matter: gradients, curvature, correlations."""
