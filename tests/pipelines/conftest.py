import importlib.util
import os

if importlib.util.find_spec("tfx"):
    from moa_tf.startup import import_tensorflow

    import_tensorflow()
    import tfx.components  # noqa: F401  before TFDV and TFMA, which cannot be imported first

    os.environ.pop(
        "TF_USE_LEGACY_KERAS", None
    )  # of tensorflow_transform, and not for the commands that tests start
else:
    collect_ignore = ["test_pipeline.py"]
