"""Workers, here or in a Ray cluster: their start, their main loop and their protocol.

Orders enter; progress, models and errors leave as data. Only `main` imports torch.
"""
