"""Exact programs: the best genomes of a predicted loss under an exact cost."""
