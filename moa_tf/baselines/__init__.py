"""Methods that are no Keras model, to compare with: scikit-learn's, and those of the extra `[baselines]`."""
