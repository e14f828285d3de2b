"""Measurements; `make bench` runs them all. Never part of the tests."""
