"""What a candidate costs: objectives and the population evaluator."""
