//! What a machine has of each mechanism that a sandbox is made of, every answer told apart.
//!
//! Made by the runner, which asks the kernel; read by `keyhatch doctor`, which shows it.

use serde::{Deserialize, Serialize};

/// One mechanism on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mechanism {
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub state: State,
    /// What the kernel said, or what it is good for.
    pub detail: String,
    /// How to get it, or more of it.
    pub remedy: Option<String>,
}

/// Whether a mechanism is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum State {
    /// This kernel or machine does not have it.
    Absent,
    /// It is there, and something forbids its use.
    Disabled,
    /// It works.
    Present {
        /// At which version, where there are versions.
        version: Option<u32>,
    },
}
