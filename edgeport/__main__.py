"""`python -m edgeport` is `edgeport`."""

from edgeport.cli import main

main()
