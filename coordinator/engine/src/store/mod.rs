//! An instance as fields of a hash.
//!
//! | field | holds | written |
//! | --- | --- | --- |
//! | `i` | definition, labels, parent, time of creation | once |
//! | `h` | status, counters, flags | when they change: about always |
//! | `in`, `out`, `err` | raw input, output, error | once |
//! | `r` | sagas that were undone, by path | when one is |
//! | `dt` | detached steps that have not ended | when one begins or ends |
//! | `c` | `$context`, absent while `{}` | when it changes |
//! | `f<N>` | state of frame N | when it changes |
//! | `d<N>` | what never changes in frame N, when large: input, items of a `for`, arguments | once |
//! | `v<N>` | current data of frame N, when large | when it changes |
//! | `q<N>` | events that the `listen` of frame N holds | when it consumes one, or is through with one |
//! | `e<N>.<M>` | entry M of frame N: a result of a parallel `for`, a completed task of a saga | once |
//! | `p<N>.<M>` | entries 256·M to 256·M+255 of frame N, in place of them, when all are there | once |
//! | `x<N>` | `$context` of branch N, when it has its own | when it changes |
//!
//! Data that is the parent's is stored nowhere: absent means inherited. Every JSON object but payloads carries its
//! version in `v`.

mod read;
mod row;
mod write;

pub(crate) use read::{decode, header, identity, load};
pub(crate) use row::{BodyRow, FrameRow, HeaderRow, IdentityRow, PhaseRow};
pub(crate) use write::{delete, delete_entries, frame_row, header_row, take_writes};

/// Version that is written.
const VERSION: u32 = 1;

/// Payloads up to this many bytes stay inside of `f<N>`: a field of their own costs more than writing them again.
const INLINE_BYTES_MAX: usize = 512;

/// Why stored fields are not an instance.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A field that every instance has is not there.
    #[error("stored instance has no field `{0}`")]
    Missing(&'static str),
    /// A field cannot be decoded.
    #[error("cannot decode field `{field}` of a stored instance: {reason}")]
    Field {
        /// Its name.
        field: String,
        /// serde_json's reason, or what does not fit.
        reason: String,
    },
    /// Written by a newer build.
    #[error(
        "field `{field}` of a stored instance has version {found}, newer than {VERSION}; upgrade this process"
    )]
    Version {
        /// Its name.
        field: String,
        /// Version found.
        found: u32,
    },
}
