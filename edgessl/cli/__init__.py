"""The command line: one module per verb; see `edgessl.cli.app` for the table of verbs."""
