//! Every interleaving and every permitted memory order of the staging ring's hand-written synchronisation, with loom. Small on purpose: two appenders, one framer, a ring of a
//! few words, so that it wraps. What breaks them is listed in `docs/testing.md`.

use crate::loomed::atomic::{AtomicU64, Ordering};
use crate::loomed::model;
use crate::wal::atomics::{Atomics, Wide, Word};
use crate::wal::staging::Staging;
use envoyfs_layout::{Hlc, Lsn};
use loom::sync::atomic::AtomicBool;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

#[cfg(feature = "models")]
mod threads;

/// The atomics of the model checker.
#[derive(Debug)]
struct Loom;

impl Atomics for Loom {
    type Word = AtomicU64;
    type Wide = Pair;
}

impl Word for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }
    fn load(&self) -> u64 {
        self.load(Ordering::Acquire)
    }
    fn store(&self, value: u64) {
        self.store(value, Ordering::Release);
    }
    fn load_relaxed(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }
    fn store_relaxed(&self, value: u64) {
        self.store(value, Ordering::Relaxed);
    }
    fn add(&self, by: u64) -> u64 {
        self.fetch_add(by, Ordering::AcqRel)
    }
    fn sub(&self, by: u64) -> u64 {
        self.fetch_sub(by, Ordering::AcqRel)
    }
    fn set_bits(&self, bits: u64) -> u64 {
        self.fetch_or(bits, Ordering::AcqRel)
    }
    fn clear_bits(&self, bits: u64) -> u64 {
        self.fetch_and(!bits, Ordering::AcqRel)
    }
}

/// Loom has no 128-bit atomics: a table of values that only grows, and an atomic index into it with the same orderings.
struct Pair {
    at: AtomicU64,
    values: std::sync::Mutex<Vec<u128>>,
}

impl Pair {
    fn value(&self, at: u64) -> u128 {
        self.values.lock().unwrap()[usize::try_from(at).unwrap()]
    }
    fn index(&self, value: u128) -> u64 {
        let mut values = self.values.lock().unwrap();
        let at = values.iter().position(|known| *known == value).unwrap_or(values.len());
        if at == values.len() {
            values.push(value);
        }
        at as u64
    }
}

impl Wide for Pair {
    fn new(value: u128) -> Self {
        Self { at: AtomicU64::new(0), values: std::sync::Mutex::new(vec![value]) }
    }
    fn load(&self) -> u128 {
        self.value(self.at.load(Ordering::Acquire))
    }
    fn replace(&self, current: u128, new: u128) -> Result<(), u128> {
        let (current, new) = (self.index(current), self.index(new));
        match self.at.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(now) => Err(self.value(now)),
        }
    }
}

/// A record of so many words: its length, then its HLC in every word.
fn record(words: u64, hlc: Hlc) -> Vec<u8> {
    let mut bytes = (words * 8).to_le_bytes().to_vec();
    for _ in 1..words {
        bytes.extend(hlc.0.to_le_bytes());
    }
    bytes
}

fn append(staging: &Staging<Loom>, words: u64) {
    let drawn = staging.draw(words * 8, |last| Hlc(last.0 + 2));
    staging.put(drawn.start, &record(words, drawn.hlc));
}

/// Takes what is whole, as the framer does; checks that it is records, in order, HLCs rising.
fn frame(staging: &Staging<Loom>, at: &mut Lsn, last: &mut u64) -> u64 {
    let end = staging.published(*at);
    let mut records = 0;
    while *at < end {
        let bytes = staging.record_at(*at);
        let mut taken = vec![0; usize::try_from(bytes).unwrap()];
        staging.take(*at, &mut taken);
        let words: Vec<u64> = taken.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words[0], bytes, "the length that the appender wrote");
        assert!(words[1..].iter().all(|word| *word == words[1]), "a whole record: {words:?}");
        assert!(words[1] > *last, "INV-40");
        *last = words[1];
        *at = Lsn(at.0 + bytes);
        records += 1;
    }
    staging.frame(*at);
    records
}

#[test]
fn the_framer_takes_whole_records_in_the_order_of_lsn_and_hlc() {
    model(3, || {
        let staging = Arc::new(Staging::<Loom>::new(Lsn(0), Hlc(2), 64));
        let appenders = [2, 3].map(|words| {
            let staging = Arc::clone(&staging);
            thread::spawn(move || append(&staging, words))
        });
        let (mut at, mut last) = (Lsn(0), 2);
        let mut taken = frame(&staging, &mut at, &mut last);
        for appender in appenders {
            appender.join().unwrap();
        }
        taken += frame(&staging, &mut at, &mut last);
        assert_eq!((taken, at), (2, staging.end()));
    });
}

/// The ring holds four words; the second record of each appender goes where somebody's first one was, as soon as that was taken.
#[test]
fn words_are_used_again_only_after_they_were_taken() {
    model(2, || {
        let staging = Arc::new(Staging::<Loom>::new(Lsn(0), Hlc(2), 32));
        let admission = Arc::new(Mutex::new(()));
        let appenders = [0, 1].map(|_| {
            let (staging, admission) = (Arc::clone(&staging), Arc::clone(&admission));
            thread::spawn(move || {
                let mut appended = 0;
                for _ in 0..2 {
                    let fits = {
                        let _admission = admission.lock().unwrap();
                        let fits = staging.fits(1, 16, 0);
                        if fits {
                            staging.promise(1);
                        }
                        fits
                    };
                    if fits {
                        append(&staging, 2);
                        staging.settle(1);
                        appended += 1;
                    }
                }
                appended
            })
        });
        let (mut at, mut last) = (Lsn(0), 2);
        let mut taken = frame(&staging, &mut at, &mut last) + frame(&staging, &mut at, &mut last);
        let appended: u64 = appenders.into_iter().map(|appender| appender.join().unwrap()).sum();
        taken += frame(&staging, &mut at, &mut last);
        assert_eq!((taken, staging.promised()), (appended, 0));
    });
}

/// The committer sleeps without a timer only if whoever appends next wakes it. Loom reports a deadlock when nobody does.
#[test]
fn an_append_wakes_a_committer_that_went_to_sleep() {
    model(3, || {
        let staging = Arc::new(Staging::<Loom>::new(Lsn(0), Hlc(2), 64));
        let shared = Arc::new((Mutex::new(()), Condvar::new()));
        let woken = Arc::new(AtomicBool::new(false));
        let appenders = [0, 1].map(|_| {
            let (staging, shared, woken) = (Arc::clone(&staging), Arc::clone(&shared), Arc::clone(&woken));
            thread::spawn(move || {
                append(&staging, 2);
                if staging.settle(0) {
                    drop(shared.0.lock().unwrap());
                    woken.store(true, Ordering::Relaxed);
                    shared.1.notify_one();
                }
            })
        });
        let mut guard = shared.0.lock().unwrap();
        while staging.end() == Lsn(0) {
            staging.enter_idle();
            if staging.end() == Lsn(0) {
                guard = shared.1.wait(guard).unwrap();
            }
            staging.leave_idle();
        }
        drop(guard);
        for appender in appenders {
            appender.join().unwrap();
        }
        let (mut at, mut last) = (Lsn(0), 2);
        assert_eq!(frame(&staging, &mut at, &mut last), 2);
    });
}

/// What an operation was promised moves to what waits without a lock: whoever counts both never misses it.
#[test]
fn a_count_of_promised_and_waiting_never_misses_a_record_under_way() {
    model(3, || {
        let staging = Arc::new(Staging::<Loom>::new(Lsn(0), Hlc(2), 64));
        staging.promise(2);
        let appenders = [0, 1].map(|_| {
            let staging = Arc::clone(&staging);
            thread::spawn(move || {
                append(&staging, 2);
                staging.settle(1);
            })
        });
        let (promised, framed, (), end) = staging.counts(|| ());
        let waiting = (end.0 - framed.0) / 16;
        assert!(promised + waiting >= 2, "{promised} promised, {waiting} waiting");
        for appender in appenders {
            appender.join().unwrap();
        }
        assert_eq!((staging.promised(), staging.end()), (0, Lsn(32)));
    });
}
