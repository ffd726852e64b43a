//! A repository that the broker keeps for a remote whose ssh server speaks only protocol v0: v0 is a dialogue, which
//! does not map onto stateless HTTP. The broker fetches into it, and serves the session from it.

use std::io;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use keyhatch_host::digest::sha256;
use keyhatch_protocol::Remote;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::ssh::{MAX_REQUEST, OPTIONS, answer_of, login_options, quoted};
use super::{Advertisement, Answer, Upstream, UpstreamError};

/// Longest fetch of a whole repository.
const FETCHES: Duration = Duration::from_secs(60 * 60);

/// Brings the cache up to date and advertises from it.
pub(super) async fn advertisement(
    upstream: &Upstream,
    git_protocol: Option<&str>,
) -> Result<Advertisement, UpstreamError> {
    let directory = refresh(upstream).await?;
    let mut git = serve(upstream, &directory);
    git.arg("--advertise-refs");
    if let Some(version) = git_protocol {
        git.env("GIT_PROTOCOL", version);
    }
    git.arg(&directory).stdin(Stdio::null()).stderr(Stdio::null());
    let output = git.output().await.map_err(host("run git"))?;
    Ok(Advertisement::of(output.stdout))
}

/// Answers one request from the cache.
pub(super) async fn rpc(upstream: &Upstream, request: Bytes) -> Result<Answer, UpstreamError> {
    let directory = directory(upstream);
    let mut git = serve(upstream, &directory);
    git.arg(&directory).env("GIT_PROTOCOL", "version=2");
    git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = git.spawn().map_err(host("run git"))?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(host("run git")(io::ErrorKind::BrokenPipe.into()));
    };
    tokio::spawn(async move {
        if let Err(error) = stdin.write_all(&request).await {
            tracing::debug!(%error, "git stopped reading");
        }
    });
    Ok(answer_of(child, stdout))
}

/// Reads a fetch request whole, unpacked: it is small, and a bomb is cut.
pub(super) async fn whole_request<S>(
    remote: &Remote,
    content_encoding: Option<&str>,
    body: S,
) -> Result<Bytes, UpstreamError>
where
    S: Stream<Item = io::Result<Bytes>> + Send,
{
    let not_git = || UpstreamError::NotGit { authority: remote.authority() };
    let mut packed = BytesMut::new();
    let mut body = std::pin::pin!(body);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(host("read the request"))?;
        if packed.len() + chunk.len() > MAX_REQUEST {
            return Err(not_git());
        }
        packed.extend_from_slice(&chunk);
    }
    match content_encoding {
        None => Ok(packed.freeze()),
        Some("gzip" | "x-gzip") => {
            let mut plain = Vec::new();
            let limit = u64::try_from(MAX_REQUEST).unwrap_or(u64::MAX);
            let mut reader = flate2::read::GzDecoder::new(&packed[..]).take(limit + 1);
            reader.read_to_end(&mut plain).map_err(host("unpack the request"))?;
            if plain.len() > MAX_REQUEST { Err(not_git()) } else { Ok(plain.into()) }
        }
        Some(_) => Err(not_git()),
    }
}

/// Fetches everything that the remote shows into the cache.
async fn refresh(upstream: &Upstream) -> Result<PathBuf, UpstreamError> {
    let directory = directory(upstream);
    if !directory.join("HEAD").exists() {
        let mut init = upstream.broker.host_git.program("git");
        init.args(["init", "--quiet", "--bare", "--template="]).arg(&directory);
        run(upstream, init).await?;
    }
    let url = url(&upstream.remote);
    let ssh = ssh_command(upstream);
    let mut fetch = upstream.broker.host_git.program("git");
    fetch
        .env("GIT_SSH_COMMAND", &ssh)
        .env("GIT_SSH_VARIANT", "ssh")
        .args(["-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", "-c", "transfer.fsckObjects=true"])
        // The user's own rewrites were applied when the session opened; a second time could lead elsewhere.
        .args(["-c", &format!("url.{url}.insteadOf={url}"), "-C"])
        .arg(&directory)
        .args([
            "fetch",
            "--quiet",
            "--no-auto-maintenance",
            "--prune",
            "--no-write-fetch-head",
            "--end-of-options",
        ])
        .arg(&url)
        .args(["+refs/*:refs/*"]);
    run(upstream, fetch).await?;
    let mut head = upstream.broker.host_git.program("git");
    head.env("GIT_SSH_COMMAND", &ssh)
        .env("GIT_SSH_VARIANT", "ssh")
        .args(["-c", &format!("url.{url}.insteadOf={url}"), "ls-remote", "--symref", "--end-of-options"])
        .args([&url, "HEAD"]);
    if let Ok(said) = run(upstream, head).await
        && let Some(branch) = said.lines().find_map(|l| l.strip_prefix("ref: ")?.strip_suffix("\tHEAD"))
        && keyhatch_protocol::RefName::parse(branch.as_bytes()).is_ok()
    {
        let mut set = upstream.broker.host_git.program("git");
        set.arg("-C").arg(&directory).args(["symbolic-ref", "HEAD", branch]);
        run(upstream, set).await?;
    }
    Ok(directory)
}

/// The ssh of a fetch into the cache, as a shell reads it: with the login of the upstream's other connections, or with none.
fn ssh_command(upstream: &Upstream) -> String {
    let fixed = OPTIONS.iter().copied().filter(|option| *option != "-oSendEnv=GIT_PROTOCOL");
    let options = fixed.map(str::to_owned).chain(login_options(upstream)).map(|option| quoted(&option));
    format!("ssh {}", options.collect::<Vec<_>>().join(" "))
}

async fn run(upstream: &Upstream, mut git: Command) -> Result<String, UpstreamError> {
    let output = git.stdin(Stdio::null()).output();
    let output = tokio::time::timeout(FETCHES, output)
        .await
        .map_err(|_| UpstreamError::NotGit { authority: upstream.remote.authority() })?
        .map_err(host("run git"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = keyhatch_protocol::text::shown(said.lines().last().unwrap_or_default()).to_string();
    Err(UpstreamError::Ssh { authority: upstream.remote.authority(), said })
}

/// upload-pack over the cache. It is the broker's own directory: nothing that a session wrote is in its configuration.
fn serve(upstream: &Upstream, directory: &Path) -> Command {
    let mut git = upstream.broker.host_git.program("git");
    git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    git.args(["-c", "uploadpack.allowFilter=true", "-c", "uploadpack.allowAnySHA1InWant=false"]);
    git.args(["-c", &format!("safe.directory={}", directory.display())]);
    git.args(["upload-pack", "--stateless-rpc", "--strict"]);
    git
}

impl Upstream {
    /// Apart for every credential: what an anonymous fetch got must not be mixed with what a login opened.
    pub(super) fn cache_name(&self) -> String {
        let name = format!("{:?} {}", self.credential, self.remote);
        sha256(name.as_bytes())[..32].to_owned()
    }
}

fn directory(upstream: &Upstream) -> PathBuf {
    upstream.broker.paths.cache().join(format!("{}.git", upstream.cache_name()))
}

/// The remote as git's own ssh URL.
fn url(remote: &Remote) -> String {
    remote.to_string()
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> UpstreamError {
    move |source| UpstreamError::Host { what, source }
}
