"""One file a published method, the contract they all follow, and the registry that finds them."""
