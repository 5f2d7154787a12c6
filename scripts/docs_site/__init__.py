"""What the documentation shows of the code: pages made from commands, methods and docstrings."""
