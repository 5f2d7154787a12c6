"""What `scripts/bench` measures, the result files it writes, and the page made from them."""
