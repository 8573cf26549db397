//! What the segment area is used for, in bytes: where the percents went that cleaning has to do without.

use crate::engine::Engine;
use crate::space::StreamKind;
use crate::space::heat::Heat;
use envoyfs_layout::UNIT;
use envoyfs_layout::directory_page::ContainerState;

/// Bytes of containers of one use, and what of it lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Bytes of the containers.
    pub bytes: u64,
    /// Bytes that live in them.
    pub live: u64,
}

/// See [`Engine::occupancy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Bytes of all containers.
    pub capacity: u64,
    /// Free.
    pub free: u64,
    /// Emptied by the cleaner: free with the next publication.
    pub coming: u64,
    /// Being filled; their unused ends are neither free nor dead.
    pub open: Use,
    /// System pages.
    pub pages: Use,
    /// Closed, with nodes and what the engine itself appended.
    pub nodes: Use,
    /// Closed, with data and survivors.
    pub data: Use,
}

/// A closed container as the cleaner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Containers opened since it was closed.
    pub age: u64,
    /// Units written into it.
    pub used_units: u32,
    /// Units that live in it.
    pub live_units: u32,
    /// Stream code.
    pub stream: u8,
    /// It holds survivors of cleaning.
    pub survivors: bool,
}

impl Engine {
    /// Every container that holds objects and is not being filled.
    #[must_use]
    pub fn closed_containers(&self) -> Vec<Closed> {
        let Some(writer) = &self.writer else { return Vec::new() };
        let (open, now) = (writer.space.open_containers(), writer.space.openings());
        let state = self.state.lock();
        writer.space.with_containers(|containers| {
            let closed = containers.used().filter(|(number, row)| {
                matches!(row.state, ContainerState::Sealed | ContainerState::Survivors) && !open.contains(number)
            });
            closed
                .map(|(number, row)| Closed {
                    age: now.saturating_sub(row.closed_at),
                    used_units: row.used_units,
                    live_units: state.live_in(number),
                    stream: row.stream,
                    survivors: row.state == ContainerState::Survivors,
                })
                .collect()
        })
    }

    /// What the segment area is used for. Looks at every container; of a writable mount only.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        let Some(writer) = &self.writer else { return Occupancy::default() };
        let segment = u64::from(self.shape.segment_bytes);
        let open = writer.space.open_containers();
        let state = self.state.lock();
        let mut out = Occupancy {
            capacity: u64::from(self.shape.containers) * segment,
            coming: u64::from(writer.cleaning.coming()) * segment,
            ..Occupancy::default()
        };
        writer.space.with_containers(|containers| {
            for (number, row) in containers.iter() {
                let part = match row.state {
                    ContainerState::Free => {
                        out.free += segment;
                        continue;
                    }
                    _ if open.contains(&number) => &mut out.open,
                    ContainerState::System => &mut out.pages,
                    _ if row.stream == StreamKind::Nodes.code() || row.heat == Heat::NODES => &mut out.nodes,
                    _ => &mut out.data,
                };
                let live =
                    if row.state == ContainerState::System { state.pages.of(number) } else { state.live_in(number) };
                part.bytes += segment;
                part.live += u64::from(live) * u64::from(UNIT);
            }
        });
        out
    }
}
