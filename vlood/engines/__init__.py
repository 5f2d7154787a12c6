"""Where work runs: score, evaluate and demonstrate, in this process."""
