"""`python -m moltis`."""

from moltis.cli import main

main()
