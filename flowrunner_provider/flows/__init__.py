"""The catalogue of actions.

``catalogue``  reads signatures, type hints and docstrings of the operators into action specifications
``generate``   writes the generated files: ``catalogue.json`` and others, and the README's matrix
"""
