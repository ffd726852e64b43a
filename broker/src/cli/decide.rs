//! Deciding from another terminal: `pending`, `show`, `approve`, `deny`.

use std::io::{IsTerminal, Write};
use std::process::{Command, ExitCode, Stdio};

use super::args::{Approve, Deny, Pending, Show};
use super::{Failure, paths, print, print_json};
use crate::approval::{SHORT_DIGEST, Scope};
use crate::control::client::{Client, ClientError};
use crate::control::{Listing, Reply, Request, RequestView, Verdict};
use crate::signer::LockedKey;
use crate::surface;

pub(super) fn pending(args: &Pending) -> Result<ExitCode, Failure> {
    let Listing { requests, left_out } = loop {
        let listing = list(args.wait)?;
        if !args.wait || !listing.requests.is_empty() {
            break listing;
        }
    };
    if args.json {
        print_json(&requests)?;
    } else {
        let mut lines: String = requests.iter().map(surface::lines).collect();
        if left_out > 0 {
            lines.push_str(&format!("… and {left_out} more requests: decide some of these first\n"));
        }
        lines.extend(locked().iter().map(|key| surface::locked_line(key) + "\n"));
        print(if lines.is_empty() { "nothing waits for a decision\n" } else { &lines })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The keys that signatures wait for. A broker that is gone has none.
fn locked() -> Vec<LockedKey> {
    let asked = paths().ok().and_then(|paths| Client::connect(&paths).ok()?.ask(Request::Locked).ok());
    match asked {
        Some(Reply::Locked { keys }) => keys,
        _ => Vec::new(),
    }
}

fn list(wait: bool) -> Result<Listing, Failure> {
    // Without a broker nothing can wait; with --wait one may come.
    let mut client = match Client::connect(&paths()?) {
        Err(ClientError::NotRunning(_)) if wait => {
            std::thread::sleep(std::time::Duration::from_millis(100));
            return Ok(Listing::default());
        }
        Err(ClientError::NotRunning(_)) => return Ok(Listing::default()),
        client => client?,
    };
    match client.ask(Request::Pending { wait })? {
        Reply::Pending(listing) => Ok(listing),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn show(args: &Show) -> Result<ExitCode, Failure> {
    let shown = match Client::connect(&paths()?)?.ask(Request::Show { id: args.id.clone() })? {
        Reply::Shown(shown) => shown,
        other => return Err(unexpected(&other)),
    };
    if args.json {
        print_json(&shown)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = surface::request(&shown.request);
    if args.diff {
        text.push_str("  --- diff ---\n");
        text.push_str(&surface::diff(&shown));
        page(&text)?;
    } else {
        text.push_str(&format!("\ndiff:    keyhatch show {} --diff\n", args.id));
        text.push_str(&format!(
            "decide:  keyhatch approve {0} --digest {1}   or   keyhatch deny {0} --reason TEXT\n",
            args.id,
            short(&shown.request.digest)
        ));
        print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The first digits of a digest, as people read and type them.
fn short(digest: &str) -> &str {
    digest.get(..SHORT_DIGEST).unwrap_or(digest)
}

pub(super) fn approve(args: &Approve) -> Result<ExitCode, Failure> {
    let scope = if args.session { Scope::Session } else { Scope::Once };
    let decide = |digest: Option<String>| Request::Decide {
        id: args.id.clone(),
        digest,
        decision: Verdict::Approve { scope },
    };
    let mut reply = Client::connect(&paths()?)?.ask(decide(args.digest.clone()))?;
    if let Reply::NotShown { .. } = &reply {
        // Nobody saw what it is about: here is somebody who can, or the approval would be a blind one.
        let Some(digest) = look(args)? else {
            print("not approved\n")?;
            return Ok(ExitCode::FAILURE);
        };
        reply = Client::connect(&paths()?)?.ask(decide(Some(digest)))?;
    }
    let request = decided(reply)?;
    let how = if args.session { "approved for this session" } else { "approved once" };
    let then =
        if request.withdrawn { "; it goes through when the agent runs the same command again" } else { "" };
    print(&format!("{how}{then}: {}", surface::lines(&request)))?;
    Ok(ExitCode::SUCCESS)
}

/// Shows a request to whoever sits at this terminal and asks. Gives the digest of what was shown for a yes.
fn look(args: &Approve) -> Result<Option<String>, Failure> {
    let id = &args.id;
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Failure::invalid(
            format!("request {id} was not shown yet"),
            format!(
                "look at it: keyhatch show {id}; a script that looked by itself passes --digest, from keyhatch pending --json"
            ),
        ));
    }
    let shown = match Client::connect(&paths()?)?.ask(Request::Show { id: id.clone() })? {
        Reply::Shown(shown) => shown,
        other => return Err(unexpected(&other)),
    };
    print(&format!("{}\napprove this? [y/N] ", surface::request(&shown.request)))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|e| Failure::internal("the terminal", &e))?;
    Ok(matches!(answer.trim(), "y" | "yes").then_some(shown.request.digest))
}

pub(super) fn deny(args: &Deny) -> Result<ExitCode, Failure> {
    let decision = Verdict::Deny { reason: args.reason.clone() };
    let request = Request::Decide { id: args.id.clone(), digest: None, decision };
    let request = decided(Client::connect(&paths()?)?.ask(request)?)?;
    print(&format!("denied: {}", surface::lines(&request)))?;
    Ok(ExitCode::SUCCESS)
}

fn decided(reply: Reply) -> Result<RequestView, Failure> {
    match reply {
        Reply::Decided { request } => Ok(*request),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn unexpected(reply: &Reply) -> Failure {
    tracing::debug!(?reply, "unexpected");
    Failure::unavailable("the broker answered something else", "stop the old broker, then try again")
}

/// Shows text through the user's pager when a person reads, else as it is. The text is escaped already.
fn page(text: &str) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        return print(text);
    }
    let pager = std::env::var("PAGER").unwrap_or_else(|_| "less".to_owned());
    let words: Vec<&str> = pager.split_whitespace().collect();
    let Some((program, arguments)) = words.split_first() else { return print(text) };
    let child = Command::new(program).args(arguments).env("LESS", "FRX").stdin(Stdio::piped()).spawn();
    let Ok(mut child) = child else { return print(text) };
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(text.as_bytes())
    {
        // The reader quit before the end.
        tracing::debug!(%error, "the pager closed early");
    }
    child.wait().map_err(|e| Failure::internal("the pager", &e))?;
    Ok(())
}
