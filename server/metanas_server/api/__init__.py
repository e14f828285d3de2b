"""The gRPC services: conversion of messages, uploads, pagination and interceptors.

Protobuf messages enter and leave; plain values go to the jobs. No other package of the server knows
a message.
"""
