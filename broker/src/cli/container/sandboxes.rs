//! Settings of sandboxes that agents bring along: they deny Unix sockets, and the session is reached through two.

use std::path::PathBuf;

use keyhatch_policies::SECRET_PLACES;
use serde_json::json;

use crate::cli::{Failure, paths, sandbox};
use crate::control::OpenedContainer;

/// Settings of srt, which Claude Code uses (`srt --settings FILE -c CMD`).
///
/// On Linux it cannot open one socket: it opens all or none. So what else listens is hidden: a socket is connected to by
/// its path.
pub(super) fn srt(opened: &OpenedContainer) -> Result<String, Failure> {
    let paths = paths()?;
    let (home, sockets) = (sandbox::home(), paths.sessions().join(opened.session.as_str()));
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let mut hidden: Vec<PathBuf> =
        SECRET_PLACES.iter().map(|below| home.join(below)).filter(|path| path.exists()).collect();
    hidden.extend(["/run", "/tmp"].map(PathBuf::from));
    hidden.extend([paths.runtime().to_owned(), paths.state().to_owned()]);
    hidden.extend(variable("XDG_RUNTIME_DIR"));
    hidden.extend(variable("SSH_AUTH_SOCK").filter(|path| path.exists()));
    let value = json!({
        "network": {
            "allowedDomains": [],
            "deniedDomains": [],
            "allowUnixSockets": [sockets.join("broker.sock"), sockets.join("http.sock")],
            "allowAllUnixSockets": true,
        },
        "filesystem": {
            "denyRead": hidden,
            "allowRead": [opened.project, sockets],
            "allowWrite": [opened.project],
            "denyWrite": [],
        },
    });
    let text = serde_json::to_string_pretty(&value).map_err(|e| Failure::internal("cannot encode", &e))?;
    Ok(format!("{text}\n"))
}

/// Options of codex. Its sandbox opens sockets only together with the network.
pub(super) fn codex() -> String {
    eprintln!(
        "keyhatch: for a codex inside the container: its sandbox opens sockets only together with the network, and hides no \
         file. On the host itself it could read the control token and approve its own pushes: there use keyhatch run"
    );
    "-c sandbox_mode=workspace-write -c sandbox_workspace_write.network_access=true\n".to_owned()
}
