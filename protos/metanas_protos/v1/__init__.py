"""Version 1 of the contract (proto package `metanas.v1`)."""
