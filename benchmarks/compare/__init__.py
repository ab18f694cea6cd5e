"""slmclient and its peers side by side: `python -m compare` from `benchmarks/`, or `make bench`."""
