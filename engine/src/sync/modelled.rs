//! Shuttle's locks in the form of parking_lot's. Every call is a point at which another thread may go on. A wait with a timeout never times out, unless a model says so: whoever
//! waits must be told, and a timer may not be what hides that nobody did.

use atomic::Ordering;
pub use shuttle::sync::atomic;
pub use shuttle::thread;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

#[derive(Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

/// `None` only while a condition waits with it.
pub struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>, &'a shuttle::sync::Mutex<T>);

/// Waits with a timeout end by it, always.
pub static TIMERS: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)), &self.0)
    }
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok().map(|guard| MutexGuard(Some(guard), &self.0))
    }
    #[allow(dead_code, reason = "tests use it")]
    pub fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        #[expect(clippy::expect_used, reason = "a model may end with a panic")]
        self.0.as_ref().expect("the lock is held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        #[expect(clippy::expect_used, reason = "a model may end with a panic")]
        self.0.as_mut().expect("the lock is held")
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").finish_non_exhaustive()
    }
}

impl<T: fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[derive(Default)]
pub struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub const fn new() -> Self {
        Self(shuttle::sync::Condvar::new())
    }
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.0.take();
        guard.0 = held.map(|held| self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
    }
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _timeout: Duration) {
        if TIMERS.load(Ordering::Relaxed) {
            guard.0 = None;
            thread::yield_now();
            guard.0 = Some(guard.1.lock().unwrap_or_else(PoisonError::into_inner));
            return;
        }
        self.wait(guard);
    }
    pub fn notify_one(&self) {
        self.0.notify_one();
    }
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condvar")
    }
}

#[derive(Default)]
pub struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    #[allow(dead_code, reason = "tests use it")]
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::RwLock::new(value))
    }
    pub fn read(&self) -> shuttle::sync::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn write(&self) -> shuttle::sync::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLock").finish_non_exhaustive()
    }
}

/// Shuttle has none of 128 bits.
#[derive(Default)]
pub struct AtomicU128(Mutex<u128>);

impl AtomicU128 {
    pub const fn new(value: u128) -> Self {
        Self(Mutex::new(value))
    }
    pub fn load(&self, _: Ordering) -> u128 {
        *self.0.lock()
    }
    pub fn compare_exchange_weak(&self, current: u128, new: u128, _: Ordering, _: Ordering) -> Result<u128, u128> {
        let mut value = self.0.lock();
        let before = *value;
        if before == current {
            *value = new;
            return Ok(before);
        }
        Err(before)
    }
}
