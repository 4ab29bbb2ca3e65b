"""Training and prediction as pipelines: TFX, Beam, Ray."""
