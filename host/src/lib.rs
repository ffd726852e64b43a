//! What every process of ours on the user's side needs of the machine, and nothing that knows of policies, sessions or secrets.

pub mod boot;
pub mod cause;
pub mod digest;
pub mod durable;
pub mod git;
pub mod git_config;
pub mod paths;
pub mod random;
pub mod sys;
pub mod untrusted_file;
