"""Settings, processes, files, logs, pictures: what the scripts share."""
