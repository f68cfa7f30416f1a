"""Where SAM pays after pruning, with a search that has no edge, beside SGD at equal compute."""
