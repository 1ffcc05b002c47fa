"""The commands, one file per noun. Heavy imports stand inside the functions."""
