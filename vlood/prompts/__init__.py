"""Class names, templates and the text features they give."""
