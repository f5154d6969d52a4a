"""Speed and memory of the running product."""
