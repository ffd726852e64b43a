//! git-lfs: files are fetched as commits are, on the same judgement; nothing is sent.
//!
//! Comes in: a batch of names from an untrusted client. Goes out: links to this front end, behind which the server's own
//! stay in the broker, and the files. What cannot be had is refused in git-lfs's own kind of JSON: whatever else comes
//! with a refusal it turns into advice about a login.
//!
//! Source: git-lfs, docs/api/batch.md and docs/api/locking.md: 501 for a server without locks, which it passes over.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use futures_util::TryStreamExt;
use keyhatch_protocol::{Remote, Scheme};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Front, answer, fetch};
use crate::cause::chain;
use crate::upstream::Upstream;
use crate::upstream::lfs::{JSON, Offer, Wanted, meant};

/// Most bytes of a request: a hundred names take 10 KiB.
const MAX_REQUEST: usize = 1024 * 1024;
/// Most files in one.
const MAX_FILES: usize = 1000;
/// What stands before a link's name.
const LINK: &str = "info/lfs/keyhatch/";

/// Why nothing is sent.
const NO_UPLOAD: &str = "git-lfs does not send files from here yet. Large files that are committed here come to the host with \
    their commits, and the user pushes both from there";
/// Why nothing is fetched over ssh.
const NO_SSH: &str = "git-lfs is brokered for https remotes alone; files that are missing here the user gets on the host: git lfs fetch";

/// What git-lfs asks for. It says more, which nothing here depends on.
#[derive(Debug, Deserialize)]
struct Batch {
    operation: String,
    #[serde(default)]
    hash_algo: Option<String>,
    objects: Vec<Wanted>,
}

/// Answers a request below `info/lfs`.
pub(super) async fn serve(front: Front, remote: Remote, endpoint: &str, request: Request) -> Response {
    match (request.method(), endpoint.strip_prefix(LINK)) {
        (&Method::GET, Some(name)) => file(&front, &remote, name).await,
        (&Method::POST, _) if endpoint == "info/lfs/objects/batch" => batch(front, remote, request).await,
        _ if endpoint.starts_with("info/lfs/locks") => {
            refuse(StatusCode::NOT_IMPLEMENTED, "locks of git-lfs are not brokered")
        }
        _ => refuse(StatusCode::UNPROCESSABLE_ENTITY, "no such service of git-lfs"),
    }
}

fn refuse(status: StatusCode, why: &str) -> Response {
    answer(status, JSON, Body::from(json!({ "message": format!("keyhatch: {why}") }).to_string()))
}

/// `POST objects/batch`.
async fn batch(front: Front, remote: Remote, request: Request) -> Response {
    let no = |why: &str| refuse(StatusCode::UNPROCESSABLE_ENTITY, why);
    let Some(own) = own_address(&request) else { return no("the request names no host") };
    let Ok(body) = axum::body::to_bytes(request.into_body(), MAX_REQUEST).await else {
        return no("the request is too long");
    };
    let batch = match serde_json::from_slice::<Batch>(&body) {
        Ok(batch) if batch.objects.len() <= MAX_FILES && batch.objects.iter().all(is_named) => batch,
        _ => return no("the request cannot be read"),
    };
    if batch.operation != "download" {
        return no(NO_UPLOAD);
    }
    if remote.scheme() != Scheme::Https {
        return no(NO_SSH);
    }
    if batch.hash_algo.is_some_and(|algorithm| algorithm != "sha256") {
        return no("names are SHA-256");
    }
    let most = front.session.policy.limits().pack_bytes;
    if batch.objects.iter().any(|file| file.size > most) {
        return no(&format!(
            "a file is larger than `pack` in the policy's [limits], {most} bytes: the user can raise it for a new session, or get the \
             file on the host: git lfs fetch"
        ));
    }
    let upstream = match upstream(&front, &remote).await {
        Ok(upstream) => upstream,
        Err(why) => return no(&why),
    };
    match upstream.large_files(&batch.objects).await {
        Ok(offers) => {
            let files: Vec<Value> = offers.into_iter().map(|offer| offered(&front, &own, offer)).collect();
            let body = json!({ "transfer": "basic", "objects": files });
            answer(StatusCode::OK, JSON, Body::from(body.to_string()))
        }
        Err(error) => {
            tracing::info!(%remote, error = %chain(&error), "an upstream did not offer large files");
            no(&error.for_session())
        }
    }
}

/// The server with the credential that the policy chose for fetching from it.
async fn upstream(front: &Front, remote: &Remote) -> Result<Upstream, String> {
    let project = &front.session.project;
    let remote = meant(remote, project.remotes.iter().chain(&project.submodules));
    let terms = fetch::admitted(front, remote).await?;
    Ok(Upstream::connect(&front.broker, &front.session, remote, &terms.credential))
}

fn is_named(file: &Wanted) -> bool {
    file.oid.len() == 64 && file.oid.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// This front end's address and the remote's part of the path, as this client has them: what a link begins with.
fn own_address(request: &Request) -> Option<String> {
    let host = request.headers().get(header::HOST)?.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    let (path, _) = request.uri().path().split_once("/info/lfs")?;
    host.bytes().all(plain).then(|| format!("http://{host}{path}"))
}

fn offered(front: &Front, own: &str, Offer { file: Wanted { oid, size }, link }: Offer) -> Value {
    let kept = link.and_then(|link| front.session.large.keep(link).ok_or(429));
    match kept {
        Ok(name) => json!({
            "oid": oid, "size": size, "authenticated": true,
            "actions": { "download": { "href": format!("{own}/{LINK}{name}") } },
        }),
        Err(code) => {
            let why =
                if code == 404 { "upstream has no such file" } else { "upstream does not give this file" };
            json!({ "oid": oid, "size": size, "error": { "code": code, "message": why } })
        }
    }
}

/// `GET` of a link.
async fn file(front: &Front, remote: &Remote, name: &str) -> Response {
    let Some(link) = front.session.large.find(name) else {
        return refuse(StatusCode::GONE, "this link is no longer good: run the command again");
    };
    let upstream = match upstream(front, remote).await {
        Ok(upstream) => upstream,
        Err(why) => return refuse(StatusCode::FORBIDDEN, &why),
    };
    match upstream.large_file(&link).await {
        Ok(stream) => {
            let ended = stream.inspect_err(|error| tracing::info!(%error, "a large file ended early"));
            answer(StatusCode::OK, "application/octet-stream", Body::from_stream(ended))
        }
        Err(error) => {
            tracing::info!(%remote, error = %chain(&error), "an upstream did not give a large file");
            refuse(StatusCode::UNPROCESSABLE_ENTITY, &error.for_session())
        }
    }
}
