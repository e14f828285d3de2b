"""Jobs: accepted adaptations from the queue to their end.

Accepted requests enter; orders for worker processes and changes of state leave. After a worker's
death `workers.pool` starts another process, and `Dispatcher._worker_lost` queues its jobs again.
"""
