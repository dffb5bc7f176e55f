"""How people reach us: the command line."""
