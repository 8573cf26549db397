//! Ways for the kernel's requests to reach [`crate::front::Front`].

pub mod fuser;
