"""The command line: one thin module per command, each importing what it needs when it runs."""
