"""Training and prediction as pipelines: TFX, Beam, Ray."""

METADATA = "metadata.sqlite"
"""ML Metadata, in a pipeline's directory."""

LOG = "pipeline.log"
"""What TFX and Beam write, there."""
