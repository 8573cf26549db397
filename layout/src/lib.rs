//! Bytes on disk: pure types, no IO, no unsafe.
