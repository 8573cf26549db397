//! The real `ticket.rs` over loom's locks.

pub use super::super::DeviceError;
pub mod sync {
    pub use loom::sync::{Arc, MutexGuard};
    pub struct Mutex<T>(loom::sync::Mutex<T>);
    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }
        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }
    pub struct Condvar(loom::sync::Condvar);
    impl Condvar {
        pub fn new() -> Self {
            Self(loom::sync::Condvar::new())
        }
        pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(guard).unwrap()
        }
        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}
#[path = "../ticket.rs"]
#[expect(dead_code, reason = "the model uses part of it")]
pub mod ticket;
