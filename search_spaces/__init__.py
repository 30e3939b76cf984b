"""Ready search spaces: YAML files that `evo-mpq run NAME` finds by name."""
