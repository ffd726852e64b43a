//! Fetch, clone and ls-remote: judged once, then streamed through.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use axum::response::Response;
use futures_util::TryStreamExt;
use keyhatch_policies::{Terms, judge};
use keyhatch_protocol::Remote;

use super::{Front, advertisement, git_protocol, refuse, served};
use crate::approval::{Judged, Patience, Proposal, Submission, admit};
use crate::broker::{Broker, WITHDRAWN};
use crate::cause::chain;
use crate::session::Admitted;
use crate::upstream::{Service, Upstream};

/// How long an admitted fetch may go on asking: a clone is one GET and a few POSTs.
const FETCH_LASTS: Duration = Duration::from_secs(30 * 60);

/// `GET info/refs?service=git-upload-pack`.
pub(super) async fn advertise(front: Front, remote: Remote, request: Request) -> Response {
    let terms = match admitted(&front, &remote).await {
        Ok(terms) => terms,
        Err(reason) => return refuse(&reason),
    };
    let upstream = Upstream::connect(&front.broker, &front.session, &remote, &terms.credential);
    let version = git_protocol(&request);
    match upstream.advertised(Service::UploadPack, version.as_deref()).await {
        Ok(advertised) => {
            let body = advertisement::body(&front, &remote, Service::UploadPack, advertised);
            served(Service::UploadPack, "advertisement", body)
        }
        Err(error) => {
            tracing::info!(%remote, error = %chain(&error), "an upstream did not advertise");
            refuse(&error.for_session())
        }
    }
}

/// `POST git-upload-pack`.
pub(super) async fn upload_pack(front: Front, remote: Remote, request: Request) -> Response {
    let terms = match admitted(&front, &remote).await {
        Ok(terms) => terms,
        Err(reason) => return refuse(&reason),
    };
    let upstream = Upstream::connect(&front.broker, &front.session, &remote, &terms.credential);
    let version = git_protocol(&request);
    let encoding = request.headers().get(header::CONTENT_ENCODING).and_then(|v| v.to_str().ok());
    let encoding = encoding.map(str::to_owned);
    let body = request.into_body().into_data_stream().map_err(std::io::Error::other);
    match upstream.upload_pack(version.as_deref(), encoding.as_deref(), body).await {
        Ok(stream) => {
            let (session, mut listing) = (front.session.clone(), advertisement::Listing::default());
            let noted = stream.inspect_ok(move |bytes| session.upstreams.note(&remote, listing.see(bytes)));
            served(Service::UploadPack, "result", Body::from_stream(noted))
        }
        Err(error) => {
            tracing::info!(%remote, error = %chain(&error), "an upstream did not answer a fetch");
            refuse(&error.for_session())
        }
    }
}

/// Judges a fetch, asks where the policy says so, and remembers the answer while the fetch lasts.
pub(super) async fn admitted(front: &Front, remote: &Remote) -> Result<Terms, String> {
    if let Some(terms) = front.session.admitted_fetch(remote) {
        return Ok(terms);
    }
    let session = &front.session;
    let proposal = Proposal::fetch(remote.clone());
    let judgement = judge(&session.policy, &session.project, proposal.operation());
    let approved = match admit(&session.id, proposal, judgement) {
        Judged::Approved(approved) => approved,
        Judged::Denied(reason) => {
            let text = format!("fetch denied: {}\nhint: {}", reason.text, reason.hint);
            let fields = vec![("remote", remote.to_string().into()), ("reason", reason.text.into())];
            front.broker.refuse(&session.id, "fetch-denied", fields).await;
            return Err(text);
        }
        Judged::Ask(question) => {
            let patience = Patience { held: session.policy.approval_timeout(), withdrawn: WITHDRAWN };
            match front.broker.queue.submit(&session.id, *question, patience, Broker::new_request_id) {
                Submission::Approved(approved) => *approved,
                Submission::Refused(why) => return Err(refused(why)),
                Submission::TooMany => return Err("too many requests of this session wait already".into()),
                // A client that goes away drops this future, and with it the request: it is withdrawn.
                Submission::Held(held) => held.decided().await.map_err(|decision| match decision {
                    crate::approval::Decision::Refused(why) => refused(why),
                    _ => "nobody answered in time; ask the user, then run the same command again".into(),
                })?,
            }
        }
    };
    let fields = vec![
        ("remote", remote.to_string().into()),
        ("rule", approved.terms().rule.clone().into()),
        ("digest", approved.digest().as_str().into()),
    ];
    front.broker.record(&session.id, "fetch-allowed", fields).await.map_err(|e| e.to_string())?;
    let terms = approved.terms().clone();
    session.remember_fetch(remote, Admitted { terms: terms.clone(), until: Instant::now() + FETCH_LASTS });
    Ok(terms)
}

fn refused(why: Option<String>) -> String {
    match why {
        Some(why) => format!("refused by the user: {}", keyhatch_protocol::text::shown(&why)),
        None => "refused by the user".into(),
    }
}
