"""Negative labels: corpora of words, mining, banks and their FAISS index."""
