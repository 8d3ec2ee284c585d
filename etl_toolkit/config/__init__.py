"""`ParallelConfig`: how a load is run. Nothing in it changes what a load leaves, only how it gets there."""

from etl_toolkit.config.cost_model import CostModel
from etl_toolkit.config.layers import describe, parse_setting, resolve_config
from etl_toolkit.config.parallel import COMMITS, ParallelConfig, available_cores
from etl_toolkit.config.templates import TEMPLATES, template

__all__ = [
    "COMMITS",
    "TEMPLATES",
    "CostModel",
    "ParallelConfig",
    "available_cores",
    "describe",
    "parse_setting",
    "resolve_config",
    "template",
]
