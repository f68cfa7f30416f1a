"""A residual network on photographs in class folders, through the whole pipeline."""
