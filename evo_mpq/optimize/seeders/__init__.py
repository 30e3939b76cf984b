"""Allocation methods, one a file: each turns tables and budgets into genomes."""
