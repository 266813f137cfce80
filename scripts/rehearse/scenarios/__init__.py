"""One file a scenario; the file name with hyphens is the scenario's name."""
