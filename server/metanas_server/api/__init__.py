"""The gRPC services: conversion of messages, uploads, pagination and interceptors.

Protobuf messages enter and leave; plain values go to the jobs. No other package of the server uses
messages. Images stay encoded: `metanas.adaptation.read_task` decodes them in a worker process.
"""
