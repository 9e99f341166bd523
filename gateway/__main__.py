"""`python -m gateway` is `lmaas`."""

from gateway.cli.main import main

main()
