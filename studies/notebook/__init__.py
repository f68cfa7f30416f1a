"""The published notebook, faults and all."""
