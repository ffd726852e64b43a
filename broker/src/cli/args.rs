//! The command line, as its `--help` teaches it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use keyhatch_protocol::{RequestId, SessionId};

use crate::session::container::SessionName;

/// A hatch in the wall between an agent and your keys.
///
/// The agent works in a sandbox that holds no key. What it wants to push is shown to you and done on your side.
#[derive(Debug, Parser)]
#[command(name = "keyhatch", version, max_term_width = 100)]
pub(crate) struct Args {
    /// Run as root all the same.
    #[arg(long, global = true, hide = true)]
    pub(crate) as_root: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Confine a command in this project; starts the broker if none runs.
    Run(Run),
    /// Run a container with a session: the mounts and variables are added to its command line.
    #[command(after_help = CONTAINER_HELP)]
    Container(Container),
    /// List what waits for your decision.
    Pending(Pending),
    /// Show one request: refs, commits, files, risks, diff.
    Show(Show),
    /// Approve a request.
    Approve(Approve),
    /// Deny a request.
    Deny(Deny),
    /// Standing permissions.
    #[command(subcommand)]
    Grant(Grant),
    /// What a policy allows, and why an operation would be asked or denied.
    #[command(subcommand)]
    Policy(Policy),
    /// What happened.
    #[command(subcommand)]
    Audit(Audit),
    /// Open sessions, and what ended ones did.
    #[command(subcommand)]
    Session(Session),
    /// Named credentials, and where each comes from.
    #[command(subcommand)]
    Credential(super::credential::Credential),
    /// Run the daemon in the foreground.
    Broker {
        /// Started by another command: leave its terminal.
        #[arg(long, hide = true)]
        detached: bool,
        /// Stop the one that runs; its sessions end.
        #[arg(long)]
        stop: bool,
        /// Run this by the shell for each request that waits: its id is in $KEYHATCH_REQUEST, and what `keyhatch pending
        /// --json` says of it is on standard input. It is told, not asked.
        #[arg(long, value_name = "COMMAND", conflicts_with = "stop")]
        notify_command: Option<String>,
    },
    /// Play the whole story in a throwaway directory, against a throwaway server.
    Demo {
        /// Approve without asking.
        #[arg(long)]
        yes: bool,
    },
    /// Print a paragraph for AGENTS.md or CLAUDE.md, so that an agent knows where it is.
    AgentNotes,
    /// What this machine can confine, what is missing and how to get it; tries a sandbox.
    Doctor(Doctor),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command.
    Man {
        /// Write keyhatch.1, keyhatch-run.1 and so on into this directory.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

impl Command {
    /// Whether it reads or changes what belongs to a user.
    pub(crate) const fn acts_as_user(&self) -> bool {
        let learns = matches!(self, Self::Policy(Policy::Learn(_)));
        learns
            || !matches!(
                self,
                Self::AgentNotes
                    | Self::Completions { .. }
                    | Self::Doctor(_)
                    | Self::Man { .. }
                    | Self::Policy(_)
            )
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// The project's directory [default: the git repository around the current directory, else that directory].
    #[arg(long, value_name = "DIR")]
    pub(crate) project: Option<PathBuf>,
    /// A shipped policy, one of ~/.config/keyhatch/policies, or a file.
    #[arg(long, value_name = "NAME|FILE", default_value = "default")]
    pub(crate) policy: String,
    /// Look at paths too that the command wants and does not get, and say at the end which line of the policy would allow
    /// it. Slower. What is refused of system calls and connections is looked at in any case.
    #[arg(long)]
    pub(crate) explain: bool,
    /// Keep the command's output and print one object: exit code, output, what was used, which limit was hit.
    #[arg(long)]
    pub(crate) json: bool,
    /// In a container with a session mounted (keyhatch session open, keyhatch container): confine a command there, with the
    /// session's policy. The keyhatch of the mounted directory does it: /run/keyhatch/keyhatch run --inside -- CMD.
    #[arg(long, conflicts_with_all = ["project", "policy", "explain", "json"])]
    pub(crate) inside: bool,
    /// The command and its arguments [default: your $SHELL].
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Container {
    #[command(flatten)]
    pub(crate) container: ForContainer,
    /// Let the command line have what would undo the point; the refusal names the word.
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub(crate) allow: Vec<super::container::Danger>,
    /// podman, docker or nerdctl, its options, `run`, and the rest as you would type it.
    #[arg(last = true, value_name = "CMD", required = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// Print one object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Pending {
    /// Print an array of objects.
    #[arg(long)]
    pub(crate) json: bool,
    /// Wait until there is something.
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The request's id.
    pub(crate) id: RequestId,
    /// Print one object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the whole diff too, through your pager.
    #[arg(long)]
    pub(crate) diff: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Approve {
    /// The request's id.
    pub(crate) id: RequestId,
    /// Also later fast-forwards of the same refs of this remote, while the session lasts.
    #[arg(long)]
    pub(crate) session: bool,
    /// The digest that you were shown, or its first 12 digits or more; another operation is then refused. For scripts, and
    /// for requests that `keyhatch show` was not run for.
    #[arg(long, value_name = "HEX")]
    pub(crate) digest: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Deny {
    /// The request's id.
    pub(crate) id: RequestId,
    /// Words for the agent.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Grant {
    /// List what was approved for a session.
    List {
        /// Print an array of objects.
        #[arg(long)]
        json: bool,
    },
    /// Take one back; what it covered is asked again.
    Revoke {
        /// The id of the request that it was given with.
        id: RequestId,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// List the policies that can be named.
    List,
    /// Print what a policy says.
    Show {
        /// A name or a file.
        policy: String,
    },
    /// Check a policy file; every error has its place.
    Check {
        /// A name or a file.
        policy: String,
    },
    /// Say why an operation would be allowed, asked or denied.
    Explain(Explain),
    /// Run a command in the sandbox, look at what it misses, and write the policy that it needs.
    Learn(Learn),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Learn {
    /// The project's directory [default: as for `keyhatch run`].
    #[arg(long, value_name = "DIR")]
    pub(crate) project: Option<PathBuf>,
    /// Where the policy is written [default: standard output, after the command's own].
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The command and its arguments.
    #[arg(last = true, value_name = "CMD", required = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Explain {
    /// A name or a file.
    pub(crate) policy: String,
    /// `fetch`, `push` or `sign`.
    #[arg(value_parser = ["fetch", "push", "sign"])]
    pub(crate) operation: String,
    /// The remote's URL, for a fetch or a push.
    #[arg(required_if_eq_any([("operation", "fetch"), ("operation", "push")]))]
    pub(crate) remote: Option<String>,
    /// For a signature: of what.
    #[arg(long, default_value = "commit", value_parser = ["commit", "tag", "push-certificate"])]
    pub(crate) kind: String,
    /// For a signature: committer, tagger or pusher, as "Name <address>" [default: you, by your git configuration].
    #[arg(long = "as", value_name = "PERSON")]
    pub(crate) speaker: Option<String>,
    /// For the signature of a commit: its author [default: the same].
    #[arg(long, value_name = "PERSON")]
    pub(crate) author: Option<String>,
    /// For a push: the full ref name.
    #[arg(long = "ref", value_name = "REF", default_value = "refs/heads/main")]
    pub(crate) ref_name: String,
    /// For a push: what would happen to the ref.
    #[arg(long, default_value = "fast-forward", value_parser = ["create", "fast-forward", "force", "delete"])]
    pub(crate) update: String,
    /// The project whose remotes `{remotes}` stands for: its remotes' URLs.
    #[arg(long = "project-remote", value_name = "URL")]
    pub(crate) project_remotes: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Print the log.
    Log {
        /// The lines as they are.
        #[arg(long)]
        json: bool,
    },
    /// Check the chain; names the first bad line.
    Verify,
    /// Print where the log is.
    Path,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowSession {
    /// The session's id.
    pub(crate) id: SessionId,
    /// Print one object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print what it connected to and what was refused, all of it.
    #[arg(long, conflicts_with = "json")]
    pub(crate) network: bool,
    /// Only what was refused, and the policy line that would allow each.
    #[arg(long)]
    pub(crate) denials: bool,
}

/// A session for a container that keyhatch did not make.
#[derive(Debug, clap::Args)]
pub(crate) struct ForContainer {
    /// The project's directory [default: the git repository around the current directory, else that directory].
    #[arg(long, value_name = "DIR")]
    pub(crate) project: Option<PathBuf>,
    /// A shipped policy, one of ~/.config/keyhatch/policies, or a file [default: default].
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) policy: Option<String>,
    /// Where the project is mounted inside. The session's own git directory is then mounted over its .git, and what the
    /// host would run later is read-only.
    #[arg(long, value_name = "DIR", value_parser = super::container::target)]
    pub(crate) target: Option<PathBuf>,
    /// Also cover the image's /etc/gitconfig: for git 2.30 and 2.31 in an image whose user does not own the project, for
    /// programs that clear their environment, for libgit2. The image's own file then does not count.
    #[arg(long)]
    pub(crate) etc_gitconfig: bool,
}

/// How `keyhatch session open` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One object: session, project, policy, expires, mounts, env, warnings.
    Json,
    /// Options of `docker run`.
    Docker,
    /// Options of `podman run`.
    Podman,
    /// A Compose file that is merged with yours: `docker compose -f compose.yaml -f THIS up`.
    Compose,
    /// Properties of devcontainer.json.
    Devcontainer,
    /// Commands for a shell, where the mounts are made by hand.
    Env,
    /// Settings of srt, the sandbox that Claude Code uses, on this machine: nothing is mounted there. With --name, a second
    /// call with --format env has the variables.
    Srt,
    /// Options of a codex that runs in the container.
    Codex,
}

#[derive(Debug, clap::Args)]
pub(crate) struct OpenSession {
    #[command(flatten)]
    pub(crate) container: ForContainer,
    /// When it ends by itself, if nobody closes it before.
    #[arg(long = "for", value_name = "DURATION", default_value = "24h", value_parser = humantime::parse_duration)]
    pub(crate) lasts: std::time::Duration,
    /// Keep a link to it, $XDG_RUNTIME_DIR/keyhatch/named/NAME, for files that name the same path each time. Where a session
    /// of that name is open already, that one is printed; with another --policy or --target that is an error.
    #[arg(long)]
    pub(crate) name: Option<SessionName>,
    /// How to print what is to be mounted and set.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
    /// The service that --format compose adds to.
    #[arg(long, value_name = "NAME", default_value = "app")]
    pub(crate) service: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Session {
    /// Open a session for a container that keyhatch did not make, and say what to mount and to set.
    ///
    /// It lasts until it is closed, its time is up, or the broker ends; then its sockets are gone. The broker is started where
    /// none runs, and goes on with the ssh-agent, the session bus and the keyring of whoever started it.
    #[command(after_help = OPEN_HELP)]
    Open(OpenSession),
    /// End a session: its sockets go, and what still runs in its container is refused.
    Close {
        /// The session's id.
        id: SessionId,
        /// Nothing of the container runs any more: what was made in the project to mount on is removed too.
        #[arg(long)]
        container_ended: bool,
    },
    /// List the open sessions.
    List {
        /// Print an array of objects.
        #[arg(long)]
        json: bool,
    },
    /// Show what a session did, or has done so far.
    Show(ShowSession),
}

const OPEN_HELP: &str = "\
Examples:
  keyhatch session open --project . --target /work        says what to mount and to set
  opened=$(keyhatch session open --target /work --format podman)
  eval \"podman run --rm -it -v '$PWD':/work $opened IMAGE\"
  keyhatch session open --json | jq .mounts
  keyhatch session close 1a2b3c4d --container-ended

The image needs git and nothing else: the helper comes with the mounted directory, and so does what confines a command
there, with the session's policy: /run/keyhatch/keyhatch run --inside -- CMD (where the session knows --target).
keyhatch container does all this for one command line.";

const CONTAINER_HELP: &str = "\
Examples:
  keyhatch container -- podman run --rm -it -v \"$PWD\":/work -w /work IMAGE
  keyhatch container --policy feature-branches -- docker run --rm --network none -v \"$PWD\":/work -w /work IMAGE make

The project's mount is found on the line; its .git and what the host would run later are covered.
The session ends with the container. Decide in another terminal: keyhatch pending, keyhatch approve ID.";
