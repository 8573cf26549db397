//! A random history for driving something else than the model: each operation with the value the volume must have after it.
//!
//! The model runs underneath, with all its checks, because it alone knows which realms are own. What an implementation does
//! not offer is left out by a [`Profile`]; the rest of the history is drawn as usual.

use crate::bugs::Bug;
use crate::model::{Config, Model};
use crate::operation::Operation;
use crate::oracle::{OracleEntry, OracleVolume, has_realms};

/// Draws after which the model below writes a checkpoint, so that it never holds a long log.
const DRAWS_PER_CHECKPOINT: u64 = 64;

/// Which operations a history may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Renames from one realm to another, realms among what moves.
    pub rename_across_realms: bool,
    /// Clones and snapshots of a directory with realms inside. (A clone of the volume's root is soon one.)
    pub clone_with_realms: bool,
    /// Clones that cannot be written.
    pub read_only_clones: bool,
    /// Clones of files.
    pub clone_file: bool,
    /// O_TMPFILE.
    pub temporary_files: bool,
    /// linkat of an open file whose last name is gone. (POSIX systems allow it for O_TMPFILE only.)
    pub link_orphans: bool,
    /// Files that are unlinked or replaced while open.
    pub open_unlinked: bool,
    /// ADOPT, and every change below a realm that is not own.
    pub adopt: bool,
    /// Explicit conversion of a link file with one name: nothing a reader sees.
    pub embed_links: bool,
    /// Retained checkpoint roots under the model, and clones out of them (which only a seeded bug makes).
    pub history: bool,
    pub reflink: bool,
    pub hard_links: bool,
    pub snapshots: bool,
    pub clones: bool,
}

impl Profile {
    /// Everything the model knows.
    pub const fn everything() -> Profile {
        Profile {
            rename_across_realms: true,
            clone_with_realms: true,
            read_only_clones: true,
            clone_file: true,
            temporary_files: true,
            link_orphans: true,
            open_unlinked: true,
            adopt: true,
            embed_links: true,
            history: true,
            reflink: true,
            hard_links: true,
            snapshots: true,
            clones: true,
        }
    }

    /// What a first implementation offers: no renames across realms, clones with realms inside, read-only clones, O_TMPFILE,
    /// link-out of orphans, ADOPT, history, reflink.
    pub const fn first_implementation() -> Profile {
        Profile {
            rename_across_realms: false,
            clone_with_realms: false,
            read_only_clones: false,
            temporary_files: false,
            link_orphans: false,
            adopt: false,
            embed_links: false,
            history: false,
            reflink: false,
            ..Profile::everything()
        }
    }

    /// May `operation` follow on the volume `before`? Whether it needs an ADOPT is asked of the model.
    pub(crate) fn allows(&self, operation: &Operation, before: &OracleVolume) -> bool {
        let realms_inside = |path: &[u32]| has_realms(before.directory(path));
        match operation {
            Operation::Rename { from, directory, orphan, .. } => {
                let parent = &from[..from.len() - 1];
                let crosses = || before.realm_around(parent).0 != before.realm_around(directory).0;
                (self.open_unlinked || orphan.is_none()) && (self.rename_across_realms || !crosses())
            }
            Operation::Clone { source, read_only, .. } => {
                self.clones
                    && (self.read_only_clones || !read_only)
                    && (self.clone_with_realms || !realms_inside(source))
            }
            Operation::TakeSnapshot { directory, .. } => {
                self.snapshots && (self.clone_with_realms || !realms_inside(directory))
            }
            Operation::DropSnapshot { .. } => self.snapshots,
            Operation::CloneFile { .. } => self.clone_file,
            Operation::TemporaryFile { .. } => self.temporary_files,
            Operation::LinkOrphan { .. } => self.link_orphans,
            Operation::UnlinkOpen { .. } => self.open_unlinked,
            Operation::EmbedLink { .. } => self.embed_links,
            Operation::CloneHistory { .. } => self.history,
            Operation::Reflink { .. } => self.reflink,
            Operation::Link { .. } => self.hard_links,
            Operation::Adopt { .. } => self.adopt,
            Operation::Create { .. }
            | Operation::MakeDirectory { .. }
            | Operation::Write { .. }
            | Operation::Punch { .. }
            | Operation::Unlink { .. }
            | Operation::CloseOrphan { .. }
            | Operation::RemoveDirectory { .. }
            | Operation::RemoveTree { .. } => true,
        }
    }
}

/// A random history: one seed and profile always give the same operations.
pub struct History {
    model: Model,
    draws: u64,
}

impl History {
    pub fn new(seed: u64, profile: Profile) -> History {
        let config = Config { bug: Bug::None, restamp: true, history: profile.history, mark: false, operations: 0 };
        let mut model = Model::new(seed, config);
        model.generator.profile = profile;
        History { model, draws: 0 }
    }

    /// The value before the next operation.
    pub fn volume(&self) -> &OracleVolume {
        &self.model.oracle
    }

    /// The next operation, and the value of the whole volume after it. ADOPTs happen in the model and are not reported:
    /// an implementation makes its own, and a reader sees nothing of them.
    #[expect(clippy::should_implement_trait, reason = "the item borrows from the history")]
    pub fn next(&mut self) -> (Operation, &OracleVolume) {
        let operation = loop {
            if let Some(operation) = self.draw() {
                break operation;
            }
        };
        self.model.now += 1;
        self.model.execute(operation.clone());
        (operation, &self.model.oracle)
    }

    /// Runs every check of the model below. Not needed for the history itself.
    pub fn check_model(&mut self) {
        self.model.check();
    }

    fn draw(&mut self) -> Option<Operation> {
        self.draws += 1;
        if self.draws.is_multiple_of(DRAWS_PER_CHECKPOINT) {
            self.model.freeze(true);
            self.model.publish();
        }
        let live = self.model.current.places.len() / 3;
        let operation = self.model.draw(live)?;
        for path in self.model.paths_to_adopt(&operation) {
            // outermost first: each ADOPT lets the next realm inside become own
            while let Some(outermost) = self.model.foreign(&path) {
                if !self.model.generator.profile.adopt {
                    return None;
                }
                let realm = self.model.generator.realm_id();
                self.model.now += 1;
                self.model.execute(Operation::Adopt { path: outermost, realm });
            }
        }
        Some(operation)
    }
}

/// The bytes that a token stands for: `len` bytes that differ for every token.
pub fn token_bytes(token: u64, len: usize) -> Vec<u8> {
    let mut state = token.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    out.extend_from_slice(&token.to_le_bytes());
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Is an entry a directory or a realm's root, as a reader sees it?
pub fn is_directory(entry: &OracleEntry) -> bool {
    matches!(entry, OracleEntry::Directory(_) | OracleEntry::Realm(_))
}
