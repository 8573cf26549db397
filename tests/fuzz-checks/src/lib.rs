//! What must hold of every decoder of `layout` for any bytes, and a few well-formed inputs to start from.
//!
//! One function a structure, used by the fuzz targets in `fuzz/fuzz_targets` (nightly, coverage-guided) and by `tests/replay.rs` (stable, in the test suite: the kept
//! corpus, and mutations of it). For every input:
//!
//! - no panic, and no more memory than a small multiple of the input (the callers measure it);
//! - `encode(decode(b)) = b`: nothing is accepted that no writer produces, so no two byte strings mean the same;
//! - `decode(encode(x)) = x` for what was decoded.
//!
//! Structures with a checksum of their own are tried twice: as they are, and with the checksum made right, or the fuzzer would never get past it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a property that does not hold is told by a panic"
)]

mod check;
mod seal;
mod seeds;

/// A decoder under test.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name of the fuzz target and of its folder in the corpus.
    pub name: &'static str,
    /// Panics when a property does not hold.
    pub check: fn(&[u8]),
    /// Well-formed inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

macro_rules! targets {
    ($($name:ident)*) => {
        /// Every decoder.
        pub const TARGETS: &[Target] = &[$(Target { name: stringify!($name), check: check::$name, seeds: seeds::$name }),*];
        $(
            #[doc = concat!("The properties of `", stringify!($name), "`.")]
            pub fn $name(bytes: &[u8]) {
                check::$name(bytes);
            }
        )*
    };
}

targets! {
    superblock volume_directory log_block record engine_records segment_header segment_footer table_part batch segment_page list_page roots
    node reference directory_attributes entry inode slice realm territory client_roots operation key
}
