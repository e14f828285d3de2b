"""Jobs from acceptance to the end: records, queue, scheduler and live progress.

Accepted requests enter; orders for worker processes and changes of state leave.
"""
