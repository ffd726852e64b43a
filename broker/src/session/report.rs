//! What a session did, said once when it ends and repeated by `keyhatch session show`.
//!
//! Comes in: what the broker counted, and sections of whoever knows more (the session's parts, the command that ran it).
//! Goes out: lines for people, data for scripts; one file a session in the state directory, the newest kept.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use keyhatch_protocol::SessionId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Session;
use crate::approval::seconds;
use crate::network;

/// Reports that are kept: older sessions are in the audit log.
const KEPT: usize = 100;
/// Longest report that is read back; sections are bounded by whoever makes them.
const MAX_REPORT: u64 = 8 * 1024 * 1024;

/// One part of a report. Whoever makes one bounds it, and escapes in `lines` what the session chose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// What it is about, a word that scripts can look for: `git`, `network`, `limits`.
    pub name: String,
    /// For people.
    pub lines: Vec<String>,
    /// For scripts: the same facts as data.
    pub data: Value,
}

/// A session's report, as `keyhatch session show --json` prints it. Stable: fields are added, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReport {
    /// Whose.
    pub session: SessionId,
    /// The project's directory on the host.
    pub project: PathBuf,
    /// The policy's name.
    pub policy: String,
    /// When it was opened, in seconds since the epoch.
    pub opened: u64,
    /// When it ended, in seconds since the epoch; none while it is open.
    pub closed: Option<u64>,
    /// Only what there is something to say about.
    pub sections: Vec<Section>,
}

/// The empty directory that a session without a project works in, beside its other files.
pub const NO_PROJECT: &str = "no-project";

/// A session's project as people read it.
#[must_use]
pub fn shown_project(session: &SessionId, project: &Path) -> String {
    if project.ends_with(Path::new(session.as_str()).join(NO_PROJECT)) {
        return "no project".to_owned();
    }
    project.display().to_string()
}

/// No report could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// No session of that id, or one too long ago.
    #[error("no report of session {0} is kept")]
    Unknown(SessionId),
}

impl SessionReport {
    /// Gathers what is known of a session now.
    #[must_use]
    pub fn of(session: &Session) -> Self {
        Self {
            session: session.id.clone(),
            project: session.directory.clone(),
            policy: session.policy.name().to_owned(),
            opened: seconds(session.opened),
            closed: None,
            sections: git(session)
                .into_iter()
                .chain(session.brought())
                .chain(network::report::section(&session.id, &session.network))
                .collect(),
        }
    }

    /// The report of a session whose broker died: what could be brought afterwards.
    #[must_use]
    pub fn recovered(record: &super::gitdir::Record, sections: Vec<Section>, closed: u64) -> Self {
        Self {
            session: record.session.clone(),
            project: record.project.clone(),
            policy: record.policy.clone(),
            opened: record.opened,
            closed: Some(closed),
            sections,
        }
    }

    /// Keeps it where [`SessionReport::read`] finds it, in a directory of the broker's own.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(&self, directory: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        options.open(file(directory, &self.session))?.write_all(&text)
    }

    /// Reads a report that was kept.
    ///
    /// # Errors
    /// When none is there.
    pub fn read(directory: &Path, session: &SessionId) -> Result<Self, ReportError> {
        let unknown = || ReportError::Unknown(session.clone());
        let opened = fs::File::open(file(directory, session)).map_err(|_| unknown())?;
        serde_json::from_reader(io::Read::take(opened, MAX_REPORT)).map_err(|_| unknown())
    }
}

fn file(directory: &Path, session: &SessionId) -> PathBuf {
    directory.join(format!("{session}.json"))
}

/// Drops the oldest reports beyond the limit.
///
/// # Errors
/// When the directory cannot be read or a report not be removed.
pub fn drop_oldest(directory: &Path) -> io::Result<()> {
    // Their number says whether any must be looked at: every session's end passes here.
    if fs::read_dir(directory)?.count() <= KEPT {
        return Ok(());
    }
    let mut kept = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        kept.push((entry.metadata()?.modified()?, entry.path()));
    }
    kept.sort();
    let over = kept.len().saturating_sub(KEPT);
    kept.iter().take(over).try_for_each(|(_, path)| fs::remove_file(path))
}

/// What passed the hatch, by the audit's own events.
fn git(session: &Session) -> Option<Section> {
    const WORDS: &[(&str, &str)] = &[
        ("push-sent", "pushes sent upstream"),
        ("push-refused", "pushes refused or withdrawn"),
        ("push-denied", "pushes denied by policy"),
        ("signed", "signatures made"),
        ("sign-refused", "signatures refused"),
        ("login-signed", "logins signed"),
        ("login-refused", "logins refused"),
        ("fetch-allowed", "remotes fetched from"),
        ("fetch-denied", "fetches denied by policy"),
    ];
    let counts = session.counts();
    let said: Vec<(&str, &str, u64)> =
        WORDS.iter().filter_map(|(event, words)| Some((*event, *words, *counts.get(*event)?))).collect();
    (!said.is_empty()).then(|| Section {
        name: "git".into(),
        lines: vec![
            said.iter().map(|(_, words, count)| format!("{words}: {count}")).collect::<Vec<_>>().join(", "),
        ],
        data: said.iter().map(|(event, _, count)| ((*event).to_owned(), Value::from(*count))).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(n: u8) -> SessionReport {
        SessionReport {
            session: SessionId::from_random([n, 0, 0, 0]),
            project: "/p".into(),
            policy: "default".into(),
            opened: 1,
            closed: Some(2),
            sections: vec![Section { name: "git".into(), lines: vec!["x".into()], data: Value::Null }],
        }
    }

    #[test]
    fn a_session_without_a_project_names_none() {
        let id = "1a2b3c4d".parse().expect("an id");
        let shown = |project: &str| shown_project(&id, project.as_ref());
        assert_eq!(shown("/run/user/1/keyhatch/files/1a2b3c4d/no-project"), "no project");
        assert_eq!(shown("/home/ada/no-project"), "/home/ada/no-project");
    }

    #[test]
    fn what_is_kept_is_read_back_and_the_oldest_goes() {
        let temp = tempfile::tempdir().expect("tempdir");
        let directory = temp.path();
        for n in 0..=u8::try_from(KEPT).expect("a small number") {
            report(n).keep(directory).expect("keeps");
        }
        drop_oldest(directory).expect("drops");
        let last = report(u8::try_from(KEPT).expect("a small number"));
        assert_eq!(SessionReport::read(directory, &last.session).expect("reads"), last);
        assert_eq!(fs::read_dir(directory).expect("a directory").count(), KEPT);
        let unknown = SessionId::from_random([255; 4]);
        assert!(matches!(SessionReport::read(directory, &unknown), Err(ReportError::Unknown(_))));
    }
}
