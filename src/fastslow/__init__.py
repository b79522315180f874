"""fastslow: LLMs that keep learning, at two speeds (Fast-Slow Training)."""

__version__ = "0.1.0"
