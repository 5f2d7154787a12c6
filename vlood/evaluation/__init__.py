"""Metrics, their uncertainty, and the tables, files and plots that show them."""
