//! The bell of a thread that sleeps in the kernel, in every interleaving.

mod loomed;
mod models;
