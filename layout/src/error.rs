//! What a decoder says about bytes it does not accept.

use thiserror::Error;

/// Bytes that are not what they should be. Says which structure, which field, and what was found; where on the device they were is added by the reader.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// The structure does not start with its magic number.
    #[error("{structure}: not one (magic is {found:#x}, expected {expected:#x})")]
    Magic {
        /// Name of the structure.
        structure: &'static str,
        /// Magic expected.
        expected: u64,
        /// Magic found.
        found: u64,
    },
    /// The checksum does not match the bytes.
    #[error("{structure}: checksum is {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// Name of the structure.
        structure: &'static str,
        /// Checksum stored or referred to.
        expected: u32,
        /// Checksum of the bytes.
        found: u32,
    },
    /// There are fewer bytes than the structure needs.
    #[error("{structure}: {found} bytes, needs {expected}")]
    Short {
        /// Name of the structure.
        structure: &'static str,
        /// Bytes needed.
        expected: usize,
        /// Bytes there.
        found: usize,
    },
    /// A field has a value that no writer of this format produces.
    #[error("{structure}: {field} is {found}")]
    Field {
        /// Name of the structure.
        structure: &'static str,
        /// Name of the field.
        field: &'static str,
        /// Value found.
        found: u64,
    },
    /// A feature or kind this version does not know: refused, never skipped.
    #[error("{structure}: {what} {found:#x} is unknown to this version; use a newer envoyfs")]
    Unknown {
        /// Name of the structure.
        structure: &'static str,
        /// What is unknown.
        what: &'static str,
        /// Value found.
        found: u64,
    },
}
