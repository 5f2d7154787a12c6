"""A saved detector for other tools: arrays, prompts, a graph, an adapter, a repository, an archive.

One module a kind of file; :mod:`vlood.detector.export.formats` chooses among them.
"""
