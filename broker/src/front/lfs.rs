//! git-lfs: refused, in words that git-lfs shows. It reads a reason from its own kind of JSON alone, and turns whatever
//! else comes with a 403 into advice about a login.
//!
//! Source: git-lfs, docs/api/batch.md and docs/api/locking.md: `{"message": …}`; 501 for a server without locks, which it
//! passes over in silence.

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;

use super::answer;

/// The kind of JSON that git-lfs reads.
const JSON: &str = "application/vnd.git-lfs+json";

/// Why nothing is served.
const REASON: &str = "keyhatch: git-lfs is not brokered yet. Large files that are committed here come to the host with their \
    commits, and the user pushes both from there; files that are missing here the user gets on the host: git lfs fetch";

/// Answers a request below `info/lfs`.
pub(super) fn refuse(endpoint: &str) -> Response {
    let status = if endpoint.starts_with("info/lfs/locks") {
        StatusCode::NOT_IMPLEMENTED
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    answer(status, JSON, Body::from(serde_json::json!({ "message": REASON }).to_string()))
}
