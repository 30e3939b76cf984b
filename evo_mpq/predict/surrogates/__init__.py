"""Models that are fitted to measured losses and predict those of other genomes."""
