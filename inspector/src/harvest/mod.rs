//! What a session's git directory holds that the host's does not: gathered in confinement.

mod child;
mod objects;
mod order;

use keyhatch_inspection::harvest::{
    EntryChange, Harvest, LOG_TAIL, MAX_REFS, Order, RefChange, Refused, TreeOrder, TreeState,
};

pub use child::{gather, main};
