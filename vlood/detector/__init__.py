"""What a detector decides and, once saved, what its folder holds."""
