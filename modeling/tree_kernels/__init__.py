"""Ways to compute attention over a `TreeLayout`: one file each, all equal to the dense mask."""
