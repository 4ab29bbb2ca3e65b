"""moa-tf: mechanisms of action from gene expression and cell viability."""

from moa_tf import registration

__version__ = "0.1.0"

registration.with_keras()
