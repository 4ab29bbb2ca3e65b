"""A server of exported models for development: TensorFlow Serving's REST and gRPC calls, and a page.

The way of a request: `rest` or `calls` (gRPC) takes its tensors out (`tensors`), `models` finds the `version` that
it is for, and `batching` computes it together with others that wait.
"""
