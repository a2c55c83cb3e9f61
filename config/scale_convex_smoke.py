# After config/convex.py: seconds.
steps = 5000
log_interval = 202
