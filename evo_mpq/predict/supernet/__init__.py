"""A network that computes with all options at once and shares its weights among them, and what is learned from it."""
