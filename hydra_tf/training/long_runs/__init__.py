"""Long training: the tf.distribute loop, its checkpoints, how it stops and resumes."""
