//! Whose store it is: the engine's client writes its name beside its roots, so that no other takes them for its own.

use crate::LayoutError;
use std::fmt;

/// Bytes of a name.
pub const CLIENT_TAG_BYTES: usize = 8;

/// Name of the program, or of the kind of data, that the client roots belong to: eight printable ASCII characters, or all zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientTag([u8; CLIENT_TAG_BYTES]);

impl ClientTag {
    /// A client that gives no name; the tag of a store that nobody has opened yet.
    pub const UNNAMED: Self = Self([0; CLIENT_TAG_BYTES]);
    /// The file trees of envoyfs.
    pub const FILES: Self = Self::new(b"envoyfs ");

    /// Spaces fill what a shorter name leaves.
    ///
    /// # Panics
    /// A character is not printable ASCII. In a constant that is an error of compilation.
    #[must_use]
    pub const fn new(name: &[u8; CLIENT_TAG_BYTES]) -> Self {
        let mut rest: &[u8] = name;
        while let [byte, after @ ..] = rest {
            assert!(matches!(*byte, b' '..=b'~'), "a client tag is printable ASCII");
            rest = after;
        }
        Self(*name)
    }

    /// Does it give a name?
    #[must_use]
    pub fn is_named(self) -> bool {
        self != Self::UNNAMED
    }

    /// As it lies on disk.
    #[must_use]
    pub const fn encode(self) -> [u8; CLIENT_TAG_BYTES] {
        self.0
    }

    /// From what lies on disk in a structure of this name.
    ///
    /// # Errors
    /// It is neither printable nor all zero.
    pub fn decode(structure: &'static str, bytes: [u8; CLIENT_TAG_BYTES]) -> Result<Self, LayoutError> {
        let tag = Self(bytes);
        if tag.is_named() && bytes.iter().any(|byte| !matches!(byte, b' '..=b'~')) {
            return Err(LayoutError::Field { structure, field: "client", found: u64::from_le_bytes(bytes) });
        }
        Ok(tag)
    }
}

impl fmt::Display for ClientTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_named() {
            return f.write_str("a client without a name");
        }
        let name: String = self.0.iter().map(|byte| char::from(*byte)).collect();
        write!(f, "{:?}", name.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_reads_back_and_shows_without_its_padding() {
        assert_eq!(ClientTag::decode("x", ClientTag::FILES.encode()), Ok(ClientTag::FILES));
        assert_eq!(ClientTag::FILES.to_string(), "\"envoyfs\"");
        assert_eq!(ClientTag::decode("x", [0; 8]), Ok(ClientTag::UNNAMED));
        assert!(!ClientTag::UNNAMED.is_named());
    }

    #[test]
    fn what_would_garble_a_terminal_is_no_tag() {
        for bytes in [*b"\x1b[31mred", *b"name\0\0\0\0", *b"n\xc3\xa4me   "] {
            assert!(ClientTag::decode("x", bytes).is_err(), "{bytes:?}");
        }
    }
}
