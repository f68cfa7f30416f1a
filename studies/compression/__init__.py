"""Error against compression of the LeNets, trained long, with shifted images and without."""
