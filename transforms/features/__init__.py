"""Features are declared.

Who computes, stores, serves or explains them derives all else from their declarations.
"""

from transforms.features.aggregates import (
    Aggregate,
    Count,
    CountDistinct,
    First,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    Percentile,
    Share,
    StdDev,
    Sum,
    TopK,
    Variance,
)
from transforms.features.declare import (
    Derived,
    Field,
    GroupBy,
    RecordSql,
    RecordView,
    Service,
    SqlView,
)
from transforms.features.entity import Entity
from transforms.features.windows import Window, days, hours, lifetime, minutes

__all__ = [
    "Aggregate",
    "Count",
    "CountDistinct",
    "Derived",
    "Entity",
    "Field",
    "First",
    "GroupBy",
    "Last",
    "LastK",
    "Max",
    "Mean",
    "Min",
    "Percentile",
    "RecordSql",
    "RecordView",
    "Service",
    "Share",
    "SqlView",
    "StdDev",
    "Sum",
    "TopK",
    "Variance",
    "Window",
    "days",
    "hours",
    "lifetime",
    "minutes",
]
