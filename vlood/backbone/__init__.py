"""open_clip models to features: the image tower, the text tower, local features, loading.

Start at ``load.load_backbone``; what it returns is ``backbone.Backbone``.
"""
