"""The lab: the paper's experiments at the size of a small machine, each with a verdict that comes from its interval.

``studies`` say what is trained, ``planning`` and ``runner`` train it (skipping what is there), ``experiments`` look at
the runs, ``writer`` and ``claims`` write what was found. A new experiment is one file and one registry line.
"""
