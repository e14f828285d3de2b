"""The command line `metanas`: one module a group of commands, one for what they all print with."""
