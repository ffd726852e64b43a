//! Names and messages that cross the wall between the agent's side and the user's side.
//!
//! Everything here is a value: parsed once from untrusted bytes, then carried as a type that cannot
//! hold anything illegal. No I/O beyond `Read` and `Write`, and nothing of the other crates.
#![forbid(unsafe_code)]

pub mod agent;
pub mod destination;
mod forge;
pub mod frame;
mod host;
pub mod id;
pub mod kex;
pub mod lookalike;
pub mod message;
pub mod oid;
pub mod pktline;
pub mod push;
pub mod refname;
pub mod remote;
pub mod signable;
pub mod signature;
pub mod stream;
pub mod text;

pub use destination::{Destination, DestinationError, DestinationHost, DnsName};
pub use host::Host;
pub use id::{RequestId, SessionId};
pub use oid::{ObjectFormat, ObjectId};
pub use push::{
    ChangedFile, CommitFact, Facts, Identity, RefUpdate, RefUpdateError, Risk, RiskKind, TagFact, UpdateFact,
    UpdateKind,
};
pub use refname::RefName;
pub use remote::{Location, Parts, Remote, RemoteError, Root, Scheme};
pub use signature::{
    CarriedSignature, PushPromise, SignFacts, SignableKind, SignatureFact, SignatureFormat, SignedChanges,
    TagPromise,
};
