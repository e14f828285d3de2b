"""Quality of a model on held-out images.

A model file and labelled images enter. Metrics, the wrong images, a contact sheet and an HTML page
leave. The package needs the extra `onnx` for the predictions only.
"""
