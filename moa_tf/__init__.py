"""moa-tf: mechanisms of action from gene expression and cell viability."""

__version__ = "0.1.0"
