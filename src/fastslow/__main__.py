"""``python -m fastslow``."""

from fastslow.cli import main

main()
