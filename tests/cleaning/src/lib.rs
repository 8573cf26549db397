//! Write amplification and latency of cleaning: the real engine on a simulated device in virtual time, with a minimal client (a map of 4 KiB blocks).

pub mod analytic;
pub mod client;
pub mod device;
pub mod policies;
pub mod random;
pub mod run;
