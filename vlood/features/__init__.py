"""Embeddings: computed as a stream, cached by content, stored in files."""
