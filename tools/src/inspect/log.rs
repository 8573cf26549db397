//! The log: its blocks in the order of their sequence, and the records that they carry, as far as they go.
//!
//! Unlike a recovery this judges nothing: it shows what stands in the ring from the published start on, says what ends it, and can wait for more. What a recovery would
//! accept is what `fsck.envoyfs` and a mount say.

use super::describe;
use super::store::Store;
use super::tree::{Tree, clock};
use anyhow::Result;
use envoyfs_engine::wal::RingGeometry;
use envoyfs_layout::directory_page::VolumeEntry;
use envoyfs_layout::wal::{BLOCK_HEADER_BYTES, Block, BlockHeader, Record};
use envoyfs_layout::{LayoutError, Lsn, Oid};
use rustix::event::Timespec;
use std::io::{IsTerminal as _, Write as _};

/// Blocks behind the end that are searched for blocks of the same mount: they would mean damage.
const SEARCH_BLOCKS: u64 = 4096;
/// How long `--follow` waits before it looks again.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A record of the shared stream.
#[derive(Debug)]
pub struct Shared {
    /// LSN of its first byte.
    pub lsn: Lsn,
    /// LSN behind it.
    pub end: Lsn,
    /// The record, or why the stream cannot be read on.
    pub record: Result<Record, LayoutError>,
}

/// A block and what ends in it.
#[derive(Debug)]
pub struct Found {
    /// Its header.
    pub header: BlockHeader,
    /// Device offset.
    pub position: u64,
    /// Local records in it.
    pub local: Vec<Record>,
    /// Shared records that end in it.
    pub shared: Vec<Shared>,
}

/// Reads blocks one after the other.
#[derive(Debug)]
pub struct LogReader {
    ring: RingGeometry,
    entry: VolumeEntry,
    sequence: u64,
    stream: Vec<u8>,
    /// LSN of the first byte of `stream`; none before the first block.
    base: Option<Lsn>,
    /// Records before this belong to the checkpoint.
    from: Lsn,
}

impl LogReader {
    /// From the published checkpoint's freeze on.
    ///
    /// # Errors
    /// Superblock or volume directory cannot be read.
    pub fn new(store: &Store) -> Result<Self> {
        let (superblock, entry) = (store.superblock()?, store.directory()?.entry.clone());
        let ring = RingGeometry::of(superblock, &entry);
        let (sequence, from) = (entry.start.sequence, entry.checkpoint.freeze);
        Ok(Self { ring, entry, sequence, stream: Vec::new(), base: None, from })
    }

    fn block_at<'a>(&self, bytes: &'a [u8], sequence: u64) -> Result<Block<'a>, String> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Err("never written".into());
        }
        let block =
            Block::decode(bytes, &self.ring.seed, self.ring.position(sequence)).map_err(|error| error.to_string())?;
        let header = &block.header;
        if header.sequence != sequence {
            return Err(format!("holds block {} of generation {}", header.sequence, header.generation));
        }
        let expected = self.entry.generation_at(sequence);
        if header.generation != expected {
            return Err(format!("of generation {}, not {expected}", header.generation));
        }
        Ok(block)
    }

    /// The next block; none where the log ends, see [`LogReader::why`].
    pub fn next_block(&mut self, store: &Store) -> Option<Found> {
        let position = self.ring.position(self.sequence);
        let bytes = store.source.read(position, self.ring.block_bytes.into()).ok()?;
        let block = self.block_at(&bytes, self.sequence).ok()?;
        let header = block.header;
        let end = self.base.map(|base| base.0 + self.stream.len() as u64);
        if end.is_some_and(|end| end != header.first_lsn.0) {
            return None;
        }
        let base = *self.base.get_or_insert(header.first_lsn);
        let mut local = Vec::new();
        let mut rest = block.local;
        while let Ok((record, bytes)) = Record::decode(rest) {
            local.push(record);
            rest = rest.get(bytes..).unwrap_or_default();
        }
        self.stream.extend_from_slice(block.shared);
        if let Some(cut) = self.entry.cuts.iter().find(|cut| cut.sequence == self.sequence) {
            self.stream.truncate(usize::try_from(cut.lsn.0.saturating_sub(base.0)).unwrap_or(usize::MAX));
        }
        self.sequence += 1;
        Some(Found { header, position, local, shared: self.records() })
    }

    /// Records that are whole by now; their bytes are let go.
    fn records(&mut self) -> Vec<Shared> {
        let mut out = Vec::new();
        let Some(base) = &mut self.base else { return out };
        if self.from > *base {
            let skip = usize::try_from(self.from.0 - base.0).unwrap_or(usize::MAX).min(self.stream.len());
            self.stream.drain(..skip);
            base.0 += skip as u64;
        }
        let mut at = 0;
        while let Some(rest) = self.stream.get(at..).filter(|rest| !rest.is_empty()) {
            let lsn = Lsn(base.0 + at as u64);
            match Record::decode(rest) {
                Ok((record, bytes)) => {
                    at += bytes;
                    out.push(Shared { lsn, end: Lsn(lsn.0 + bytes as u64), record: Ok(record) });
                }
                // It goes on in the next block.
                Err(LayoutError::Short { .. }) => break,
                Err(error) => {
                    // Where the next record starts is not known.
                    out.push(Shared { lsn, end: lsn, record: Err(error) });
                    at = self.stream.len();
                }
            }
        }
        self.stream.drain(..at);
        base.0 += at as u64;
        out
    }

    /// What stands where the next block should be.
    #[must_use]
    pub fn why(&self, store: &Store) -> String {
        let position = self.ring.position(self.sequence);
        let why = match store.source.read(position, self.ring.block_bytes.into()) {
            Err(error) => error,
            Ok(bytes) => match self.block_at(&bytes, self.sequence) {
                Err(error) => error,
                Ok(block) => format!("starts at LSN {}, which does not follow", block.header.first_lsn.0),
            },
        };
        format!("block {} at {position}: {why}", self.sequence)
    }

    /// A block of this mount behind the end, if there is one: then the end is damage, or a write that was under way when power failed.
    #[must_use]
    pub fn beyond(&self, store: &Store) -> Option<u64> {
        let last = self.sequence.saturating_add(SEARCH_BLOCKS.min(self.ring.blocks.saturating_sub(1)));
        (self.sequence + 1..last).find(|sequence| {
            let bytes = store.source.read(self.ring.position(*sequence), self.ring.block_bytes.into());
            bytes.is_ok_and(|bytes| self.block_at(&bytes, *sequence).is_ok())
        })
    }

    /// Takes over what was published meanwhile. A line for the reader when the log does not simply go on.
    fn catch_up(&mut self, store: &Store) -> Option<String> {
        let entry = store.directory().ok()?.entry.clone();
        let remounted = entry.ring_generation != self.entry.ring_generation;
        let overtaken = entry.start.sequence > self.sequence;
        let last = entry.cuts.last().copied();
        self.entry = entry;
        if let Some(cut) = last.filter(|_| remounted) {
            self.sequence = cut.sequence + 1;
            self.stream.clear();
            (self.base, self.from) = (None, cut.lsn);
            return Some(format!("mounted again: generation {} from LSN {} on", cut.generation, cut.lsn.0));
        }
        if overtaken {
            let start = self.entry.start;
            self.sequence = start.sequence;
            self.stream.clear();
            (self.base, self.from) = (None, self.entry.checkpoint.freeze);
            return Some(format!("the log was faster: going on at LSN {}", self.from.0));
        }
        None
    }
}

/// What to show.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Show records from this LSN on, instead of all since the published checkpoint.
    #[arg(long, value_name = "LSN", default_value_t = 0)]
    from: u64,
    /// Show the blocks of the ring too.
    #[arg(long)]
    blocks: bool,
    /// Go on when the log ends, and show what is written to it.
    #[arg(long, short)]
    follow: bool,
}

fn block_fields(found: &Found) -> Vec<(&'static str, Tree)> {
    let header = &found.header;
    let shared =
        u64::from(header.used_bytes.saturating_sub(header.local_bytes)).saturating_sub(BLOCK_HEADER_BYTES as u64);
    vec![
        ("type", "block".into()),
        ("sequence", header.sequence.into()),
        ("offset", found.position.into()),
        ("generation", header.generation.into()),
        ("writer_epoch", header.writer_epoch.into()),
        ("first_lsn", header.first_lsn.into()),
        ("end_lsn", (header.first_lsn.0 + shared).into()),
        ("local_bytes", Tree::Bytes(header.local_bytes.into())),
        ("durable_lsn", header.durable.into()),
        ("committed_lsn", header.committed.into()),
    ]
}

fn record_fields(lsn: Option<(Lsn, Lsn)>, record: &Record) -> Vec<(&'static str, Tree)> {
    let mut fields = vec![("type", Tree::from("record"))];
    if let Some((lsn, end)) = lsn {
        fields.extend([("lsn", lsn.into()), ("end_lsn", end.into())]);
    }
    let (name, body) = describe::record(record);
    fields.extend([
        ("hlc", record.hlc.into()),
        ("kind", u64::from(record.kind).into()),
        ("name", name.into()),
        ("local", record.local.into()),
        ("territory", record.territory.into()),
    ]);
    if let Some(origin) = record.origin {
        let fields_of = vec![
            ("client", origin.client.into()),
            ("sequence", origin.sequence.into()),
            ("floor", origin.floor.into()),
        ];
        fields.push(("origin", Tree::Map(fields_of)));
    }
    if !record.data.is_empty() {
        let objects = record.data.iter().map(|object| {
            let extends = object.extends.map_or(Tree::None, |oid: Oid| oid.into());
            Tree::Map(vec![
                ("oid", object.oid.into()),
                ("extends", extends),
                ("stored_bytes", Tree::Bytes(object.stored_bytes.into())),
            ])
        });
        fields.push(("data", Tree::List(objects.collect())));
    }
    fields.push(("body", body));
    fields
}

/// One line a record for people; one JSON object a line for programs.
struct Printer {
    json: bool,
    records: u64,
}

impl Printer {
    fn json(&self, fields: Vec<(&'static str, Tree)>) -> Result<()> {
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&Tree::Map(fields))?)?;
        Ok(())
    }

    fn note(&self, kind: &'static str, what: &str) -> Result<()> {
        if self.json {
            return self.json(vec![("type", kind.into()), ("what", what.into())]);
        }
        writeln!(std::io::stdout(), "{kind}: {what}")?;
        Ok(())
    }

    fn record(&mut self, lsn: Option<(Lsn, Lsn)>, record: &Record) -> Result<()> {
        self.records += 1;
        if self.json {
            return self.json(record_fields(lsn, record));
        }
        let (name, body) = describe::record(record);
        let at = lsn.map_or_else(|| "local".to_string(), |(lsn, _)| lsn.0.to_string());
        let bytes = lsn.map(|(lsn, end)| format!("+{}", end.0 - lsn.0)).unwrap_or_default();
        let when = if record.local { String::new() } else { clock(record.hlc) };
        let data: Vec<String> =
            record.data.iter().map(|object| format!("{}+{}", object.oid, object.stored_bytes)).collect();
        let data = if data.is_empty() { String::new() } else { format!(" data=[{}]", data.join(" ")) };
        let line = format!("{at:>12} {bytes:>7}  {when:<29}  {name:<15} {}{data}", body.line());
        writeln!(std::io::stdout(), "{}", line.trim_end())?;
        Ok(())
    }

    fn found(&mut self, found: &Found, options: Options) -> Result<()> {
        if options.blocks {
            if self.json {
                self.json(block_fields(found))?;
            } else {
                writeln!(std::io::stdout(), "{}", Tree::Map(block_fields(found)).line().replace("type=", ""))?;
            }
        }
        for record in &found.local {
            self.record(None, record)?;
        }
        for shared in found.shared.iter().filter(|shared| shared.end.0 > options.from || shared.record.is_err()) {
            match &shared.record {
                Ok(record) => self.record(Some((shared.lsn, shared.end)), record)?,
                Err(error) => self.note("bad", &format!("record at LSN {}: {error}", shared.lsn.0))?,
            }
        }
        Ok(())
    }
}

/// Shows the log.
///
/// # Errors
/// Superblock or volume directory cannot be read, or the output is closed.
pub fn show(store: &mut Store, options: Options, json: bool) -> Result<()> {
    let mut reader = LogReader::new(store)?;
    let mut printer = Printer { json, records: 0 };
    let Tree::Map(head) = head(store)? else { return Ok(()) };
    if json {
        printer.json([vec![("type", "log".into())], head].concat())?;
    } else {
        writeln!(std::io::stdout(), "{}", Tree::Map(head).render())?;
        if std::io::stdout().is_terminal() {
            writeln!(std::io::stdout(), "{:>12} {:>7}  {:<29}  record", "LSN", "bytes", "time")?;
        }
    }
    loop {
        while let Some(found) = reader.next_block(store) {
            printer.found(&found, options)?;
        }
        if !options.follow {
            break;
        }
        // Nothing to wait for but time: the store knows nothing of us.
        let _ = rustix::event::poll(&mut [], Some(&WAIT));
        store.reload();
        if let Some(line) = reader.catch_up(store) {
            printer.note("note", &line)?;
        }
    }
    let end = format!("{} ({} records)", reader.why(store), printer.records);
    printer.note("end", &end)?;
    if let Some(sequence) = reader.beyond(store) {
        let what = format!(
            "block {sequence} of this mount stands behind the end of the log: damage, or writes that were under way at a power cut"
        );
        store.problem(what);
    }
    Ok(())
}

fn head(store: &Store) -> Result<Tree> {
    let (superblock, entry) = (store.superblock()?, &store.directory()?.entry);
    let cuts = entry.cuts.iter().map(|cut| {
        Tree::Map(vec![
            ("generation", cut.generation.into()),
            ("epoch", cut.epoch.into()),
            ("lsn", cut.lsn.into()),
            ("after_block", cut.sequence.into()),
            ("at_byte", cut.offset.into()),
        ])
    });
    Ok(Tree::Map(vec![
        ("ring_offset", superblock.ring_offset.into()),
        ("ring_bytes", Tree::Bytes(superblock.ring_bytes)),
        ("block_bytes", Tree::Bytes(superblock.logical_block.into())),
        ("generation", entry.ring_generation.into()),
        ("checkpoint", entry.checkpoint.number.into()),
        ("freeze_lsn", entry.checkpoint.freeze.into()),
        ("checkpoint_record_lsn", entry.checkpoint.record.into()),
        ("start_block", entry.start.sequence.into()),
        ("start_byte", entry.start.offset.into()),
        ("cuts", Tree::List(cuts.collect())),
    ]))
}
