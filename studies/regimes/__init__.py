"""In which regime SAM pays, over sparsity, dense training, arm and seed."""
