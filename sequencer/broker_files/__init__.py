"""Data files of the embedded broker: its configuration, its log configuration and its jar lock."""
