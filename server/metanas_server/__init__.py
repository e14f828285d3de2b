"""The service of MetaNAS Server: a gRPC front and worker processes."""
