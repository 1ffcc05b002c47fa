"""The only place that knows process groups and DeepSpeed."""

from train.distributed.context import DistributedContext, init_distributed

__all__ = ["DistributedContext", "init_distributed"]
