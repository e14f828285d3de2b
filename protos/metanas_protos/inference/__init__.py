"""The Open Inference Protocol (proto package `inference`), in a descriptor pool of its own.

Clients of this protocol, such as tritonclient, bring generated code for the same proto package. One
descriptor pool refuses two such files. With its own pool, this package works beside them in one
process.
"""
