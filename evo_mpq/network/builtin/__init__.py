"""The built-in networks and how they are trained."""
