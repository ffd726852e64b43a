//! The harness: an ordinary user's machine in a temporary directory, with real servers on loopback.
//!
//! A [`World`] is one user's home, broker and programs. Everything in it runs as an ordinary user, also where the tests
//! are run by root, and nothing of the machine's own environment reaches it. The only double is the human: a test
//! approves or denies through the same commands as a person.

mod compare;
mod container;
mod docker;
mod downloads;
pub mod hostile;
mod https;
mod image;
pub mod measure;
mod mutant;
mod ports;
pub mod raw;
mod session;
mod signing;
mod sshd;
mod terminal;
pub mod testnet;
mod twins;
mod unnamespaced;
mod user;
mod world;

pub use compare::{Did, Script, refs, twins};
pub use container::{Container, Mount};
pub use docker::Docker;
pub use downloads::downloaded;
pub use https::HttpsServer;
pub use image::Image;
pub use ports::free_port;
pub use session::ContainerSession;
pub use sshd::{SshServer, SshVersion};
pub use terminal::Terminal;
pub use twins::{GITS, Twins, with_git};
pub use unnamespaced::NO_NAMESPACES;
pub use user::User;
pub use world::{Finished, Running, World};
