//! Names, offsets and sizes of the fields of every structure of fixed layout, taken from the code by the compiler.
//!
//! `docs/on-disk-format.md` draws the same; `tests/format_doc.rs` compares the two in both directions, so that neither can drift.

/// A field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name in the code.
    pub name: &'static str,
    /// Bytes from the start of the structure.
    pub offset: usize,
    /// Bytes.
    pub bytes: usize,
}

/// A structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Structure {
    /// Name in the documentation.
    pub name: &'static str,
    /// Bytes.
    pub bytes: usize,
    /// Fields, in order.
    pub fields: &'static [Field],
}

impl Structure {
    /// The same, once the fields are seen to stand one behind the other from the start to the end: none is left out, none is padded. Fails when it is compiled.
    #[must_use]
    pub(crate) const fn without_gap(self) -> Self {
        let (mut rest, mut end) = (self.fields, 0);
        while let [field, behind @ ..] = rest {
            assert!(field.offset == end, "a gap, or another order");
            end += field.bytes;
            rest = behind;
        }
        assert!(end == self.bytes, "the last field ends before the structure");
        self
    }
}

/// Size of what a projection leads to.
pub(crate) const fn bytes_of<S, F>(_: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

/// Makes a [`Structure`] from a struct and the names of its fields, in a constant.
macro_rules! structure {
    ($name:literal, $raw:ident { $($field:ident),* $(,)? }) => {
        $crate::fields::Structure {
            name: $name,
            bytes: size_of::<$raw>(),
            fields: &[$($crate::fields::Field {
                name: stringify!($field),
                offset: std::mem::offset_of!($raw, $field),
                bytes: $crate::fields::bytes_of(|raw: &$raw| &raw.$field),
            }),*],
        }
        .without_gap()
    };
}
pub(crate) use structure;

/// Every structure of fixed layout.
#[must_use]
pub fn all() -> Vec<Structure> {
    [
        crate::reference::LAYOUTS,
        crate::superblock::LAYOUTS,
        crate::directory_page::LAYOUTS,
        crate::wal::LAYOUTS,
        crate::wal::RECORD_LAYOUTS,
        crate::wal::ENGINE_RECORD_LAYOUTS,
        crate::segment::LAYOUTS,
        crate::node::LAYOUTS,
        crate::system_page::LAYOUTS,
        crate::batch::LAYOUTS,
        crate::roots::LAYOUTS,
    ]
    .concat()
}
