"""The contract of MetaNAS Server: messages and stubs, generated from .proto files."""
