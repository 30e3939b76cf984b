"""Tables of what genes do: each option alone, pairs of options, contributions of steps."""
