"""The training loop over tf.distribute, and the checkpoints from which it resumes."""
