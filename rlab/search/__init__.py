"""Many jobs at once: held to claims, searched for settings, on one machine or several."""
