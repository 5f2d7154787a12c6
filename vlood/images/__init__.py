"""Where images come from, how they are decoded, and the fetching that runs beside the model."""
