//! Failures with an exit status of their own. The numbers are documented in envoyfs(1) and do not change.

use std::path::PathBuf;
use thiserror::Error;

/// Exit status for anything without a number of its own.
pub const EXIT_FAILED: u8 = 1;
/// Exit status for wrong arguments.
pub const EXIT_USAGE: u8 = 2;

/// A failure that scripts may want to tell apart.
#[derive(Debug, Error)]
pub enum Failure {
    /// 3.
    #[error("{} is not on a mounted envoyfs store (findmnt -t fuse.envoyfs lists them)", .0.display())]
    NotEnvoyfs(PathBuf),
    /// 4.
    #[error("{} is busy: {why}", path.display())]
    Busy {
        /// What was to be unmounted or deleted.
        path: PathBuf,
        /// By whom.
        why: String,
    },
    /// 5.
    #[error("{0}")]
    Denied(String),
    /// 6.
    #[error("{0}")]
    NotConfirmed(String),
    /// 7.
    #[error("{0}")]
    Found(String),
}

impl Failure {
    const fn code(&self) -> u8 {
        match self {
            Self::NotEnvoyfs(_) => 3,
            Self::Busy { .. } => 4,
            Self::Denied(_) => 5,
            Self::NotConfirmed(_) => 6,
            Self::Found(_) => 7,
        }
    }
}

/// Exit status of an error.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Failure>().map_or(EXIT_FAILED, Failure::code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn exit_statuses_are_stable_and_survive_added_context() {
        let codes = [
            (Failure::NotEnvoyfs(PathBuf::new()), 3),
            (Failure::Busy { path: PathBuf::new(), why: String::new() }, 4),
            (Failure::Denied(String::new()), 5),
            (Failure::NotConfirmed(String::new()), 6),
            (Failure::Found(String::new()), 7),
        ];
        for (failure, code) in codes {
            let error = Err::<(), _>(failure).context("somewhere").unwrap_err();
            assert_eq!(exit_code(&error), code);
        }
        assert_eq!(exit_code(&anyhow::anyhow!("other")), EXIT_FAILED);
    }
}
