//! POSIX meaning over immutable objects: directories, files, realms, forks, snapshots.
