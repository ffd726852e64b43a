//! `keyhatch session open` and `keyhatch container`: sessions for containers that keyhatch did not make.

mod danger;
mod engine;
mod formats;
mod line;
mod open;
mod options;
mod sandboxes;

use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use super::args::{self, Format, OpenSession};
use super::{Failure, print};
pub(crate) use danger::Danger;
use open::How;

/// Reads a path inside that something can be mounted at.
pub(crate) fn target(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || path == Path::new("/") || text.contains([':', ',', '\n', '\0']) {
        return Err("an absolute path below /, without `..`, `:` and `,`".to_owned());
    }
    Ok(path.components().collect())
}

/// Opens a session and prints what is to be mounted and set.
pub(super) fn open(args: &OpenSession) -> Result<ExitCode, Failure> {
    let format = if args.json { Format::Json } else { args.format };
    let how =
        How { lasts: args.lasts, name: args.name.clone(), bound: false, in_place: format == Format::Srt };
    let (_, opened) = open::open(&args.container, how)?;
    if format != Format::Json {
        for warning in &opened.warnings {
            eprintln!("keyhatch: {warning}");
        }
    }
    print(&formats::render(format, &opened, &args.service)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a container with a session.
pub(super) fn run(args: &args::Container) -> Result<ExitCode, Failure> {
    engine::run(args)
}
