"""What the user keeps: the run directory, the journal, the front, the report and exports."""
