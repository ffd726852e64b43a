//! `keyhatch grant`: standing permissions, listed and taken back.

use std::process::ExitCode;

use keyhatch_protocol::text::shown_name;

use super::args::Grant as Args;
use super::decide::unexpected;
use super::{Failure, paths, print, print_json};
use crate::approval::Grant;
use crate::control::client::{Client, ClientError};
use crate::control::{Reply, Request};

pub(super) fn grant(args: &Args) -> Result<ExitCode, Failure> {
    match args {
        Args::List { json } => {
            let grants = list()?;
            if *json {
                print_json(&grants)?;
            } else if grants.is_empty() {
                print("no grant stands\n")?;
            } else {
                print(&grants.iter().map(|grant| line(grant) + "\n").collect::<String>())?;
            }
        }
        Args::Revoke { id } => match Client::connect(&paths()?)?
            .ask(Request::RevokeGrant { id: id.clone() })?
        {
            Reply::Grants { grants } => {
                print(&grants.iter().map(|grant| format!("revoked: {}\n", line(grant))).collect::<String>())?;
            }
            other => return Err(unexpected(&other)),
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn list() -> Result<Vec<Grant>, Failure> {
    match Client::connect(&paths()?) {
        // Without a broker no session is open, and no grant stands.
        Err(ClientError::NotRunning(_)) => Ok(Vec::new()),
        client => match client?.ask(Request::Grants)? {
            Reply::Grants { grants } => Ok(grants),
            other => Err(unexpected(&other)),
        },
    }
}

fn line(grant: &Grant) -> String {
    let refs: Vec<String> = grant.refs.iter().map(|name| shown_name(name.short())).collect();
    let what =
        if refs.is_empty() { grant.operation.clone() } else { format!("fast-forward {}", refs.join(", ")) };
    format!("{}  session {}  {what}  {}", grant.id, grant.session, shown_name(&grant.remote.to_string()))
}
