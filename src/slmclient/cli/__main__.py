"""`python -m slmclient.cli` is `slm`."""

from slmclient.cli import main

main()
