"""The slots of ``bench.queue`` behind other task queues; ``python -m bench.queues --help`` says how."""
