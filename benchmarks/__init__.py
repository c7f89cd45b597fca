"""Speed, memory and size, each as a ratio against a named peer or limit in one run."""
