"""Error against compression of the LeNets on the full MNIST, beside published tables."""
