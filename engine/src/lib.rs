//! Objects, write-ahead log, segments, checkpoints, device IO. Knows no files or directories.
