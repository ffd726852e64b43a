//! Large files of git-lfs upstream, over HTTPS: which the server offers, and one of them.
//!
//! Comes in: names and sizes, checked. Goes out: links that stay in the broker, because whoever has one can fetch
//! (they are signed, or come with a token), and a file's bytes. A link may lead to another host, as large servers' do:
//! there the user's login is not sent, and nothing on this machine or in a private network is reached.
//!
//! Source: git-lfs, docs/api/batch.md and docs/api/basic-transfers.md.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use keyhatch_protocol::Remote;
use reqwest::Response;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::http::{Reach, Target, capped, failed, fine, not_git};
use super::{Answer, Upstream, UpstreamError};
use crate::network::address;

/// What requests and answers are.
pub(crate) const JSON: &str = "application/vnd.git-lfs+json";
/// Most bytes of a server's answer: a hundred files take some hundred KiB.
const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// Most links that a session has at once; a hundred come with one request.
const MAX_LINKS: usize = 4096;
/// Most bytes of one with its headers: signed ones of large storages have some 2 KiB.
const MAX_LINK: usize = 8 * 1024;
/// Most headers of one: a login, and what a storage asks for.
const MAX_HEADERS: usize = 32;
/// How often a file's place sends on to another, as git-lfs lets it.
const MAX_REDIRECTS: usize = 3;
/// How long one is kept: servers let theirs expire sooner.
const LASTS: Duration = Duration::from_secs(60 * 60);

/// A large file as a pointer names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// The SHA-256 of its content.
    pub(crate) oid: String,
    /// Its size.
    pub(crate) size: u64,
}

/// Where one can be fetched: a secret.
#[derive(Clone)]
pub(crate) struct Link {
    remote: Remote,
    href: Url,
    headers: HeaderMap,
    size: u64,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

/// What the server said of one file.
#[derive(Debug)]
pub(crate) struct Offer {
    /// Which.
    pub(crate) file: Wanted,
    /// Where it is; else how it is missing, as HTTP's number.
    pub(crate) link: Result<Link, u16>,
}

/// The links of a session, each under a name that says nothing.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<HashMap<String, (Link, Instant)>>);

impl Links {
    /// Keeps one, and returns its name. None where there are too many.
    pub(crate) fn keep(&self, link: Link) -> Option<String> {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if links.len() >= MAX_LINKS {
            links.retain(|_, (_, kept)| kept.elapsed() < LASTS);
        }
        let name = format!("{:032x}", u128::from_ne_bytes(keyhatch_host::random::random()));
        (links.len() < MAX_LINKS).then(|| {
            links.insert(name.clone(), (link, Instant::now()));
            name
        })
    }

    /// The link of a name.
    pub(crate) fn find(&self, name: &str) -> Option<Link> {
        let links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        links.get(name).filter(|(_, kept)| kept.elapsed() < LASTS).map(|(link, _)| link.clone())
    }
}

#[derive(Serialize)]
struct Batch<'b> {
    operation: &'static str,
    transfers: [&'static str; 1],
    hash_algo: &'static str,
    objects: &'b [Wanted],
}

#[derive(Deserialize)]
struct Answered {
    #[serde(default)]
    transfer: Option<String>,
    objects: Vec<AnsweredObject>,
}

#[derive(Deserialize)]
struct AnsweredObject {
    oid: String,
    #[serde(default)]
    actions: Option<Actions>,
    #[serde(default)]
    error: Option<ObjectError>,
}

#[derive(Deserialize)]
struct Actions {
    #[serde(default)]
    download: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: HashMap<String, String>,
}

#[derive(Deserialize)]
struct ObjectError {
    code: u16,
}

impl Upstream {
    /// Asks which of these the server has.
    ///
    /// # Errors
    /// When it cannot be reached, refuses, or does not answer as a server of git-lfs.
    pub(crate) async fn large_files(&self, wanted: &[Wanted]) -> Result<Vec<Offer>, UpstreamError> {
        let target = Target::of(self).await?;
        let url = format!("{}/objects/batch", endpoint(&target.base));
        let batch =
            Batch { operation: "download", transfers: ["basic"], hash_algo: "sha256", objects: wanted };
        let body = serde_json::to_vec(&batch).map_err(|_| not_git(&self.remote))?;
        let request = || {
            let request = target.client.post(&url).header(header::ACCEPT, JSON);
            request.header(header::CONTENT_TYPE, JSON).body(body.clone())
        };
        let (response, login) = target.with_login(request).await?;
        let bytes = capped(&self.remote, fine(&self.remote, response)?, MAX_ANSWER).await?;
        if let Some(login) = &login {
            self.broker.host_git.approve(&self.remote, login).await;
        }
        let answered: Answered = serde_json::from_slice(&bytes).map_err(|_| not_git(&self.remote))?;
        if answered.transfer.is_some_and(|transfer| transfer != "basic") {
            return Err(not_git(&self.remote));
        }
        let mut answers: HashMap<String, AnsweredObject> =
            answered.objects.into_iter().map(|object| (object.oid.clone(), object)).collect();
        // What was not asked for is not taken.
        Ok(wanted.iter().map(|file| offer(&self.remote, file, answers.remove(&file.oid))).collect())
    }

    /// Fetches one, as it comes, and never more than its size.
    ///
    /// # Errors
    /// When its place is none that is gone to, cannot be reached, or refuses; later failures are errors of the stream.
    pub(crate) async fn large_file(&self, link: &Link) -> Result<Answer, UpstreamError> {
        if link.remote != self.remote {
            let why = "it is another remote's";
            return Err(UpstreamError::Elsewhere { authority: self.remote.authority(), why });
        }
        let target = Target::of(self).await?;
        let response = self.followed(&target, link).await?;
        let (remote, mut left) = (self.remote.clone(), link.size);
        let stream = response.bytes_stream().map(move |chunk| {
            let chunk = chunk.map_err(|error| io::Error::other(failed(&remote, error)))?;
            left = left
                .checked_sub(chunk.len() as u64)
                .ok_or_else(|| io::Error::other("it is larger than its name"))?;
            Ok(chunk)
        });
        Ok(Box::pin(stream))
    }

    /// Goes to a link's place and on to where that sends. Where it sends is as secret as the link, and is never said.
    async fn followed(&self, target: &Target<'_>, link: &Link) -> Result<Response, UpstreamError> {
        let no = |why| UpstreamError::Elsewhere { authority: self.remote.authority(), why };
        let (mut place, mut headers) = (link.href.clone(), link.headers.clone());
        for _ in 0..=MAX_REDIRECTS {
            let own = place.origin() == target.base.origin();
            let client = if own {
                target.client.clone()
            } else {
                self.may_be_gone_to(&place, target.settings.proxy.is_some()).await?;
                self.broker.clients.client(&target.settings, Reach::Public)?
            };
            let mut request = client.get(place.clone());
            if own && !headers.contains_key(header::AUTHORIZATION) {
                request = target.dressed(request, target.login_at_hand().as_ref());
            }
            let response = target.send(request.headers(headers.clone())).await?;
            if !response.status().is_redirection() {
                return fine(&self.remote, response);
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| place.join(location).ok());
            let next = next.ok_or_else(|| no("it redirects to nowhere"))?;
            if next.origin() != place.origin() {
                // They are for whom the link named.
                headers = HeaderMap::new();
            }
            place = next;
        }
        Err(no("it is sent from one place to the next"))
    }

    /// Only to where everybody may go: the server chooses the place, and the broker stands where the session does not.
    async fn may_be_gone_to(&self, href: &Url, by_proxy: bool) -> Result<(), UpstreamError> {
        let no = |why| Err(UpstreamError::Elsewhere { authority: self.remote.authority(), why });
        if href.scheme() != "https" {
            return no("it is not https");
        }
        let public = match href.host() {
            Some(Host::Ipv4(address)) => is_public(address.into()),
            Some(Host::Ipv6(address)) => is_public(address.into()),
            // A proxy resolves names by itself, and stands where more can be reached than from here. What a name means only
            // after it was looked at here is no way around: the certificate must be the name's.
            Some(Host::Domain(name)) if by_proxy => public_addresses(name).await.is_ok(),
            Some(Host::Domain(_)) => true,
            None => return no("it names no host"),
        };
        if public { Ok(()) } else { no("its address is this machine's or a private network's") }
    }
}

/// Where a repository's files are asked for: docs/api/server-discovery.md.
fn endpoint(base: &Url) -> String {
    let base = base.as_str().trim_end_matches('/');
    let suffix = if base.ends_with(".git") { "" } else { ".git" };
    format!("{base}{suffix}/info/lfs")
}

fn offer(remote: &Remote, file: &Wanted, answered: Option<AnsweredObject>) -> Offer {
    let link = match answered {
        Some(AnsweredObject { error: Some(error), .. }) => Err(error.code),
        Some(AnsweredObject { actions: Some(Actions { download: Some(action) }), .. }) => {
            link(remote, file, action).ok_or(502)
        }
        _ => Err(404),
    };
    Offer { file: file.clone(), link }
}

fn link(remote: &Remote, file: &Wanted, action: Action) -> Option<Link> {
    let bytes: usize = action.header.iter().map(|(name, value)| name.len() + value.len()).sum();
    if action.href.len() + bytes > MAX_LINK || action.header.len() > MAX_HEADERS {
        return None;
    }
    let mut headers = HeaderMap::new();
    for (name, value) in action.header {
        let name = name.parse::<HeaderName>().ok()?;
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        if !is_of_connection(&name) {
            headers.insert(name, value);
        }
    }
    Some(Link { remote: remote.clone(), href: Url::parse(&action.href).ok()?, headers, size: file.size })
}

/// Whether a header says where a request ends or whom a connection is with: the next request on it may be another's.
fn is_of_connection(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::HOST,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ]
    .contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

fn is_public(address: std::net::IpAddr) -> bool {
    address::refused(address).is_none() && !address::is_own(address)
}

/// Resolves names on the host, to addresses that are everybody's or to nothing.
pub(super) struct Public;

impl Resolve for Public {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move { Ok(Box::new(public_addresses(name.as_str()).await?.into_iter()) as Addrs) })
    }
}

/// The addresses of a name, where all of them are everybody's.
async fn public_addresses(name: &str) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<_> = tokio::net::lookup_host((name, 0)).await?.collect();
    if found.iter().all(|address| is_public(address.ip())) {
        Ok(found)
    } else {
        Err(io::Error::other("its address is this machine's or a private network's"))
    }
}

/// The remote whose files a path below `info/lfs` means: git-lfs adds `.git` where there is none.
pub(crate) fn meant<'r>(remote: &'r Remote, known: impl IntoIterator<Item = &'r Remote>) -> &'r Remote {
    let bare = |other: &&Remote| {
        let (own, path) = (remote.path(), other.path());
        own.strip_suffix(".git") == Some(path)
            && other.scheme() == remote.scheme()
            && other.authority() == remote.authority()
    };
    let mut known = known.into_iter();
    known.find(bare).unwrap_or(remote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_asked_for_where_git_lfs_asks_for_them_and_nothing_is_taken_that_was_not_asked_for() {
        let at = |url: &str| endpoint(&Url::parse(url).expect("a URL"));
        assert_eq!(at("https://h.example/a.git"), "https://h.example/a.git/info/lfs");
        assert_eq!(at("https://h.example/a/"), "https://h.example/a.git/info/lfs");
        let remotes =
            ["https://h.example/a", "https://h.example/b.git"].map(|url| Remote::parse(url).expect(url));
        let asked = Remote::parse("https://h.example/a.git").expect("a remote");
        assert_eq!(meant(&asked, &remotes), &remotes[0]);
        assert_eq!(meant(&remotes[1], &remotes), &remotes[1]);
    }

    #[test]
    fn links_show_nothing_of_themselves_and_too_many_are_not_kept() {
        let file = Wanted { oid: "a".repeat(64), size: 1 };
        let remote = Remote::parse("https://h.example/a.git").expect("a remote");
        let action = || Action { href: "https://s.example/canary?signed".into(), header: HashMap::new() };
        let links = Links::default();
        let name = links.keep(link(&remote, &file, action()).expect("a link")).expect("it is kept");
        assert!(links.find(&name).is_some() && links.find("0").is_none());
        assert!(!format!("{links:?}").contains("canary"));
        for _ in 1..MAX_LINKS {
            links.keep(link(&remote, &file, action()).expect("a link")).expect("it is kept");
        }
        assert!(links.keep(link(&remote, &file, action()).expect("a link")).is_none());
    }

    #[test]
    fn a_link_is_as_long_as_links_are_and_says_nothing_of_the_connection() {
        let file = Wanted { oid: "a".repeat(64), size: 1 };
        let remote = Remote::parse("https://h.example/a.git").expect("a remote");
        let made = |href: &str, header: HashMap<String, String>| {
            link(&remote, &file, Action { href: href.into(), header })
        };
        let headers = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let href = "https://s.example/x";
        let some = [("X-Link", "1"), ("content-length", "9"), ("Host", "other"), ("Keep-Alive", "1")];
        let kept = made(href, headers(&some)).expect("a link").headers;
        assert_eq!(kept.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-link"]);
        assert!(made(href, headers(&[("x", "a\r\nY: b")])).is_none());
        assert!(made(&format!("{href}{}", "x".repeat(MAX_LINK)), HashMap::new()).is_none());
        assert!(made(href, headers(&[("x", &"x".repeat(MAX_LINK))])).is_none());
        // A map of headers panics where there are more than it can hold.
        assert!(made(href, (0..100_000).map(|n| (format!("x{n}"), String::new())).collect()).is_none());
        assert!(made(href, (0..=MAX_HEADERS).map(|n| (format!("x{n}"), String::new())).collect()).is_none());
    }

    #[tokio::test]
    async fn a_name_is_everybodys_only_where_all_of_its_addresses_are() {
        assert!(public_addresses("localhost").await.is_err());
        assert!(public_addresses("127.0.0.1").await.is_err());
        assert!(public_addresses("192.0.2.1").await.is_ok());
    }
}
