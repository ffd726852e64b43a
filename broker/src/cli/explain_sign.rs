//! `keyhatch policy explain NAME sign`: whether a session could sign as somebody, and by which rule.

use keyhatch_policies::{Operation, Policy, Project, SignOperation};
use keyhatch_protocol::{Identity, SignFacts, SignableKind, SignatureFormat};

use super::Failure;
use super::args::Explain;
use crate::session;

/// The signature that the user asks about. Key and content play no part in a judgement.
pub(super) fn question(policy: Policy, args: &Explain) -> Result<(Policy, Project, Operation), Failure> {
    let identities = own()?;
    let kind = match args.kind.as_str() {
        "tag" => SignableKind::Tag,
        "push-certificate" => SignableKind::PushCertificate,
        _ => SignableKind::Commit,
    };
    let speaker = match &args.speaker {
        Some(text) => person(text)?,
        None => identities.first().cloned().ok_or_else(|| {
            Failure::invalid(
                "your git configuration says neither your name nor your address",
                "git config --global user.name and user.email, or name a person: --as \"Name <address>\"",
            )
        })?,
    };
    let author = match (&args.author, kind) {
        (Some(text), _) => Some(person(text)?),
        (None, SignableKind::Commit) => Some(speaker.clone()),
        (None, _) => None,
    };
    let facts = SignFacts {
        kind,
        format: SignatureFormat::Ssh,
        key: String::new(),
        speaker: Some(speaker),
        author,
        subject: String::new(),
        body: String::new(),
        encoding: None,
        risks: Vec::new(),
        tag: None,
        certificate: None,
        parents: Vec::new(),
        tree: None,
        covered: String::new(),
    };
    let project = Project { identities, ..Project::default() };
    Ok((policy, project, Operation::Sign(SignOperation::of(facts))))
}

/// Who the user is in the current directory, as a session that is started there would find it.
fn own() -> Result<Vec<Identity>, Failure> {
    let here = std::env::current_dir().map_err(|error| Failure::internal("the current directory", &error))?;
    let project = super::run::around(None, &here)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::internal("the runtime", &error))?;
    runtime.block_on(session::identities(&project)).map_err(|error| {
        Failure::invalid(error.to_string(), "git config --list says what is wrong with the configuration")
    })
}

fn person(text: &str) -> Result<Identity, Failure> {
    let parts = text.strip_suffix('>').and_then(|text| text.split_once('<'));
    parts.map(|(name, email)| Identity { name: name.trim().to_owned(), email: email.to_owned() }).ok_or_else(
        || Failure::invalid(format!("{text} is no person as git writes one"), "write \"Name <address>\""),
    )
}
