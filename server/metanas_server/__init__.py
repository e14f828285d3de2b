"""The service of MetaNAS Server: gRPC in front, worker processes behind."""
