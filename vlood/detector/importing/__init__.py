"""Detectors from files that others have published, a module a family of files."""
