"""Measurements of whole runs: what :mod:`fastslow.evaluation` computes, from run folders to a table."""
