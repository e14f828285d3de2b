"""Worker processes: their start, their main loop and the protocol of their pipe.

Orders enter; progress, models and errors leave as data. Only `main` imports torch.
"""
