//! The user's command and the daemon; the only crate in which a secret exists.
//!
//! The spine of every operation, each room once:
//!
//! ```text
//! bytes → intake (claim, spool) → inspect → judge (policies) → approval → upstream → audit
//! ```

pub mod approval;
pub mod audit;
pub mod broker;
pub mod claim;
pub mod cli;
pub mod control;
pub mod credential;
pub mod daemon;
pub mod demo;
pub mod front;
pub mod inside;
pub mod inspect;
pub mod intake;
pub mod limits;
pub mod network;
pub mod notify;
pub mod observe;
pub mod registries;
pub mod session;
pub mod signer;
pub mod spool;
pub mod ssh_agent;
pub mod surface;
pub mod sys;
pub mod upstream;

pub use keyhatch_host::{cause, paths};
pub use keyhatch_protocol::pktline;
