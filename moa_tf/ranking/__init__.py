"""From probabilities of signatures to a ranked list of mechanisms for each drug."""
