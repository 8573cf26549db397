//! `envoyfs inspect`: looks into a store, mounted or not, whole or damaged. Reads only.
//!
//! ```text
//! store      opens, reads superblocks, directory and segment pages, knows where objects lie; collects problems
//! regions    superblock, roots       log      blocks and records       segment    segment, container
//! object     object, reference       graph    who refers to what       describe   decoded structures as fields
//! tree       fields as text and as JSON
//! ```
//! What is damaged is told on standard error (with `--json` as one JSON object a line), and the rest is shown: exit status 0. Only when nothing can be shown it is 1.
//! A repair is not made here; what is wrong with a store as a whole is what `fsck.envoyfs` says.

mod describe;
mod graph;
mod log;
mod object;
mod regions;
mod segment;
mod store;
pub(crate) mod tree;

use crate::cli::EXIT_FAILED;
use crate::output;
use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use envoyfs_layout::Oid;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use store::Store;
use tree::Tree;
use uuid::Uuid;

/// Arguments of `envoyfs inspect`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Block device or image file. May be mounted.
    image: PathBuf,
    /// Print JSON; names of fields do not change.
    #[arg(long, global = true)]
    json: bool,
    /// What to look at; the superblock if nothing is said.
    #[command(subcommand)]
    what: Option<What>,
}

/// What can be looked at.
#[derive(Debug, Subcommand)]
pub enum What {
    /// The four copies of the superblock, which one rules and why, geometry, and the volume.
    Superblock,
    /// The log: every record since the published checkpoint, decoded. With --follow as it is written.
    Log(log::Options),
    /// A logical segment: what is live in it, counts, and its container.
    Segment {
        /// Number of the segment; hexadecimal after 0x, as it stands in object ids.
        #[arg(value_parser = parse_number)]
        number: u32,
    },
    /// A container: header, footer, table of objects.
    Container {
        /// Number of the container; hexadecimal after 0x.
        #[arg(value_parser = parse_number)]
        number: u32,
    },
    /// An object, decoded; file data as a dump.
    Object {
        /// volume:segment:slot, hexadecimal, as other views show it.
        #[arg(value_parser = object::parse_oid)]
        oid: Oid,
        /// Write all of its bytes instead, as they are.
        #[arg(long)]
        raw: bool,
    },
    /// What is known of an object without reading it: where it lies, how long it is, its count.
    Reference {
        /// volume:segment:slot, hexadecimal, as other views show it.
        #[arg(value_parser = object::parse_oid)]
        oid: Oid,
    },
    /// The roots of the published checkpoint.
    Roots,
    /// Who refers to what, from the roots or from an object on.
    Graph(graph::Options),
}

impl Arguments {
    /// Shows it.
    ///
    /// # Errors
    /// Nothing can be shown; says why.
    pub fn run(&self) -> Result<()> {
        let shown = Store::open(&self.image).and_then(|mut store| {
            let shown = self.show(&mut store);
            for problem in store.take_problems() {
                if self.json {
                    output::error(serde_json::to_string(&Tree::Map(vec![("problem", problem.into())]))?);
                } else {
                    output::error(format_args!("envoyfs inspect: {problem}"));
                }
            }
            shown
        });
        match shown {
            Err(error) if is_closed(&error) => Ok(()),
            Err(error) if self.json => {
                output::json_error(&error, EXIT_FAILED);
                Err(error)
            }
            other => other,
        }
    }

    fn show(&self, store: &mut Store) -> Result<()> {
        let tree = match self.what.as_ref().unwrap_or(&What::Superblock) {
            What::Log(options) => return log::show(store, *options, self.json),
            What::Graph(options) => return graph::show(store, options, self.json),
            What::Superblock => regions::superblock(store),
            What::Roots => regions::roots(store)?,
            What::Segment { number } => segment::segment(store, *number)?,
            What::Container { number } => segment::container(store, *number)?,
            What::Object { raw: true, .. } if self.json => {
                bail!("--raw dumps bytes, which --json does not have; choose one")
            }
            What::Object { oid, raw: true } => {
                let mut out = std::io::stdout();
                out.write_all(&object::raw(store, *oid)?)?;
                return Ok(out.flush()?);
            }
            What::Object { oid, .. } => object::object(store, *oid)?,
            What::Reference { oid } => object::reference(store, *oid)?,
        };
        print(&tree, self.json)
    }
}

fn parse_number(text: &str) -> Result<u32, String> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    u32::from_str_radix(digits, radix)
        .map_err(|_| format!("'{text}' is not a number; hexadecimal ones, as in object ids, are written 0x1b"))
}

/// The identity of a store, mounted or not.
///
/// # Errors
/// Nothing of a store is there, or no copy of its superblock is whole.
pub fn identity_of(path: &Path) -> Result<Uuid> {
    let store = Store::open(path)?;
    let superblock = store.superblock.as_ref();
    let superblock = superblock.with_context(|| format!("no copy of the superblock of {} is whole", path.display()))?;
    Ok(Uuid::from_bytes(superblock.identity))
}

/// Who reads us (head, less) has seen enough.
fn is_closed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn print(tree: &Tree, json: bool) -> Result<()> {
    let out = &mut std::io::stdout();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(tree)?)?;
    } else {
        write!(out, "{}", tree.render())?;
    }
    Ok(())
}
