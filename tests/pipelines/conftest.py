import importlib.util

if importlib.util.find_spec("tfx"):
    from moa_tf.cli.startup import import_tensorflow

    import_tensorflow()
    import tfx.components  # noqa: F401  before TFDV and TFMA, which cannot be imported first
else:
    collect_ignore = ["test_pipeline.py"]
