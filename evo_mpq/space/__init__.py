"""What may be chosen: genes, genomes and the policies that they mean."""
