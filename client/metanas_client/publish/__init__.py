"""Model files for other tools: Triton Inference Server, model hubs, and checks of signatures.

A model file enters, with the report of its adaptation where there is one. A model repository, a
call to Triton, a model card or a signed statement leaves. Needs the extra "onnx", and for
signatures the extra "sign".
"""
