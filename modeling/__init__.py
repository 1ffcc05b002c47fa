"""Mathematics: tensors in, tensors out. Knows no rank, no file of data and no other package."""
