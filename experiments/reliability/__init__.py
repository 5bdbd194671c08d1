"""What becomes of a run when its process, its disk or its envs fail: scripts with recorded results."""
