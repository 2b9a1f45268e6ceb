"""The catalogue of actions, on which YAML flows stand.

``catalogue``  what an action is, derived from the operators' own signatures, hints and docs
``generate``   writes everything that is derived: ``catalogue.json`` and the README's matrix
"""
