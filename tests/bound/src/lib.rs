//! The models bound to the product: the same random histories drive the real engine and namespace, and the states are compared.
//!
//! [`sharing`]: histories of `envoyfs-model` drive [`Namespace`](envoyfs_namespace::Namespace) over the engine, or over the
//! oracle of counts, with crashes anywhere. [`log`]: histories of `envoyfs-wal-model` drive the engine with a small ring, with
//! crashes, failed flushes and bad blocks. Everything follows from a seed.

pub mod log;
pub mod sharing;

pub use envoyfs_random::Random;
