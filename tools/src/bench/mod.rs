//! `envoyfs bench`: fio's jobs on the object store, and on the bare device below it for the floor.
//!
//! ```text
//! arguments, job_file, option, value -> job      what is asked for, in fio's spelling -> check
//! runner -> ground                               scratch image or device, formatted; its two halves
//!        -> worker -> pattern, verify, log       a thread a clone
//!                  -> queue: disk | device_queue the store's client | the floor
//! statistics -> report                           fio's JSON, fio's summary
//! ```
//!
//! Owns no measurement of anything but the store: file systems are measured with fio itself.

mod arguments;
mod check;
mod device_queue;
pub mod disk;
mod ground;
pub mod job;
pub mod job_file;
mod log;
mod option;
mod pattern;
mod queue;
mod report;
mod runner;
mod slice;
mod statistics;
mod value;
mod verify;
mod watch;
mod worker;

pub use arguments::Arguments;
