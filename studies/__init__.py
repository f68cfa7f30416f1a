"""Published experiments: each a small pipeline over the library, with its results."""
