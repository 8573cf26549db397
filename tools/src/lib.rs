//! Shared parts of the envoyfs command line tools.
