"""What to try next: searchers, Pareto tools and the loop."""
