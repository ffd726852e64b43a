//! git-lfs's transfers by the session's own way, for a place where git-lfs reaches nothing by HTTP: no loopback, or no socket at all.
//!
//! Comes in: one message a line from git-lfs, which started this. Goes out: answers, and files in the directory where git-lfs keeps
//! unfinished ones; it looks itself whether a file is the one that it asked for. What is sent is refused by the front end, with a
//! reason that git-lfs shows.
//!
//! Source: git-lfs, docs/custom-transfers.md, and docs/api/batch.md for what the front end is asked.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use keyhatch_protocol::Remote;
use keyhatch_protocol::message::BRIDGE_BASE;
use serde_json::{Value, json};

use crate::http::{Exchange, HttpError};

/// What a batch and its answer are.
const JSON_HEADERS: &str =
    "Accept: application/vnd.git-lfs+json\r\nContent-Type: application/vnd.git-lfs+json\r\n";
/// Most bytes of an answer for one file.
const MAX_ANSWER: u64 = 64 * 1024;
/// What stands before this front end's own paths in a link: the host that is named in every request.
const OWN: &str = "http://keyhatch/";
/// How much is fetched between two words about it.
const STEP: u64 = 1024 * 1024;
/// The code of an error that is not the server's.
const FAILED: u32 = 1;

/// Where files are asked for, and where they are put.
struct Transfer {
    remote: Remote,
    unfinished: PathBuf,
}

pub(crate) fn answer(input: &mut impl Read, output: &mut impl Write) -> ExitCode {
    let mut transfer = None;
    for line in BufReader::new(input).lines().map_while(Result::ok) {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { return ExitCode::FAILURE };
        let (event, oid) = (message["event"].as_str().unwrap_or_default(), &message["oid"]);
        let reply = match (event, &transfer) {
            ("init", _) => match Transfer::begin(message["remote"].as_str().unwrap_or_default()) {
                Ok(begun) => {
                    transfer = Some(begun);
                    json!({})
                }
                Err(why) => json!({ "error": { "code": FAILED, "message": why } }),
            },
            ("download" | "upload", Some(transfer)) => match transfer.carry(&message, output) {
                Ok(path) => json!({ "event": "complete", "oid": oid, "path": path.to_string_lossy() }),
                Err(why) => {
                    let message = format!("keyhatch: {why}");
                    json!({ "event": "complete", "oid": oid, "error": { "code": FAILED, "message": message } })
                }
            },
            // It wants no answer.
            ("terminate", _) => return ExitCode::SUCCESS,
            _ => return ExitCode::FAILURE,
        };
        if say(output, &reply).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// One line, at once: git-lfs waits for it.
fn say(output: &mut impl Write, message: &Value) -> std::io::Result<()> {
    output.write_all(format!("{message}\n").as_bytes())?;
    output.flush()
}

impl Transfer {
    /// Finds the remote that git-lfs names, by name or address, as the session's configuration rewrites it.
    fn begin(name: &str) -> Result<Self, String> {
        let url = git(&["ls-remote", "--get-url", name])?;
        let url = String::from_utf8(url).map_err(|error| error.to_string())?;
        let path = url.strip_prefix(BRIDGE_BASE).and_then(|rest| rest.strip_prefix('/'));
        let path = path.ok_or_else(|| format!("{name} is not brokered in this session"))?;
        let remote = Remote::from_front_end(path).map_err(|error| error.to_string())?;
        let common = git(&["rev-parse", "--git-common-dir"])?;
        // Beside the files that are kept: git-lfs moves them there by their name.
        let unfinished = PathBuf::from(OsStr::from_bytes(&common)).join("lfs/tmp");
        let made = fs::create_dir_all(&unfinished).and_then(|()| unfinished.canonicalize());
        Ok(Self { remote, unfinished: made.map_err(|error| error.to_string())? })
    }

    /// Fetches the file of a message, and says where it is.
    fn carry(&self, message: &Value, output: &mut impl Write) -> Result<PathBuf, String> {
        let (oid, size) = (&message["oid"], &message["size"]);
        let batch = json!({
            "operation": message["event"], "transfers": ["basic"], "objects": [{ "oid": oid, "size": size }],
        });
        let batch_path = format!("{}/info/lfs/objects/batch", self.remote.front_end());
        let exchange = Exchange::post(&batch_path, JSON_HEADERS, batch.to_string().as_bytes());
        let body = exchange.and_then(Exchange::answer).map_err(|error| reason(&error))?;
        let mut text = Vec::new();
        body.take(MAX_ANSWER).read_to_end(&mut text).map_err(|error| error.to_string())?;
        let offered: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        let offered = &offered["objects"][0];
        if let Some(why) = offered["error"]["message"].as_str() {
            return Err(why.to_owned());
        }
        let link = offered["actions"]["download"]["href"].as_str().and_then(|link| link.strip_prefix(OWN));
        let link = link.ok_or("the broker offers no link for this file")?;
        let body = Exchange::get(link, "").and_then(Exchange::answer).map_err(|error| reason(&error))?;
        let name = oid.as_str().filter(|oid| oid.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let name = name.ok_or("a file without a name")?;
        let path = self.unfinished.join(format!("{name}-{}", std::process::id()));
        let kept = keep(body, &path, (oid, output));
        if kept.is_err() {
            // Half a file is of no use to anybody.
            drop(fs::remove_file(&path));
        }
        kept.map(|()| path)
    }
}

/// Writes a file as it comes, with a word about it now and then.
fn keep(mut body: impl Read, path: &PathBuf, (oid, output): (&Value, &mut impl Write)) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut file = File::create(path).map_err(failed)?;
    let mut so_far = 0;
    loop {
        let step = std::io::copy(&mut (&mut body).take(STEP), &mut file).map_err(failed)?;
        so_far += step;
        let word = json!({ "event": "progress", "oid": oid, "bytesSoFar": so_far, "bytesSinceLast": step });
        say(output, &word).map_err(failed)?;
        // Less than was asked for is the end, after which there is nothing more to ask.
        if step < STEP {
            return Ok(());
        }
    }
}

/// Why the front end refused: it says so in git-lfs's own kind of JSON.
fn reason(error: &HttpError) -> String {
    let text = error.to_string();
    let told = serde_json::from_str::<Value>(&text).ok();
    let told = told.as_ref().and_then(|told| told["message"].as_str());
    told.map_or(text.as_str(), |told| told.strip_prefix("keyhatch: ").unwrap_or(told)).to_owned()
}

/// What git prints, without the end of its line.
fn git(arguments: &[&str]) -> Result<Vec<u8>, String> {
    let output = Command::new("git").args(arguments).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(output.stdout.trim_ascii_end().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
