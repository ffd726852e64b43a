//! Loose objects in the order in which they may get their names in another store: what an object needs comes before it.

use std::collections::BTreeSet;
use std::path::Path;

use git2::{Error, ObjectType, Odb, Oid, Repository};

/// The loose objects of a store of ours, each after those of them that it names.
pub(super) fn needed_first(store: &Path) -> Result<Vec<Oid>, Error> {
    let repository = Repository::open_bare(store)?;
    let odb = repository.odb()?;
    let mut waiting = BTreeSet::new();
    odb.foreach(|oid| {
        waiting.insert(*oid);
        true
    })?;
    let mut ordered = Vec::with_capacity(waiting.len());
    while let Some(oid) = waiting.pop_first() {
        put(&repository, &odb, oid, (&mut waiting, &mut ordered))?;
    }
    Ok(ordered)
}

/// Puts an object after what it needs. As deep as the objects are many, which are few.
fn put(
    repository: &Repository,
    odb: &Odb<'_>,
    oid: Oid,
    (waiting, ordered): (&mut BTreeSet<Oid>, &mut Vec<Oid>),
) -> Result<(), Error> {
    for needed in needs(repository, odb, oid)? {
        if waiting.remove(&needed) {
            put(repository, odb, needed, (waiting, ordered))?;
        }
    }
    ordered.push(oid);
    Ok(())
}

fn needs(repository: &Repository, odb: &Odb<'_>, oid: Oid) -> Result<Vec<Oid>, Error> {
    let (_, kind) = odb.read_header(oid)?;
    Ok(match kind {
        ObjectType::Commit => {
            let commit = repository.find_commit(oid)?;
            commit.parent_ids().chain([commit.tree_id()]).collect()
        }
        ObjectType::Tree => repository.find_tree(oid)?.iter().map(|entry| entry.id()).collect(),
        ObjectType::Tag => vec![repository.find_tag(oid)?.target_id()],
        _ => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn whatever_an_object_needs_comes_before_it() {
        let temp = tempfile::tempdir().expect("tempdir");
        // Trees and files that several commits share, a rename between them, a tag of a tag.
        let script = "git init -q -b main; for n in 1 2 3 4 5; do mkdir -p d/$n/e; echo $n > d/$n/e/f; echo same > d/$n/s; git add .; \
            git commit -qm $n; done; git switch -qc side HEAD~3; git mv d/1 z; git commit -qm z; git merge -qm m main; \
            git tag -a one -m one; git tag -a two -m two one; git stash -q || true";
        let made = Command::new("sh")
            .current_dir(temp.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@b")])
            .envs([("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@b")])
            .args(["-ec", script])
            .status();
        assert!(made.expect("sh runs").success());
        let store = temp.path().join(".git");
        let ordered = needed_first(&store).expect("ordered");
        let (repository, mut there) = (Repository::open(&store).expect("opens"), BTreeSet::new());
        assert!(ordered.len() > 30, "{}", ordered.len());
        for oid in &ordered {
            let odb = repository.odb().expect("a store");
            for needed in needs(&repository, &odb, *oid).expect("it is read") {
                assert!(there.contains(&needed), "{oid} before {needed}");
            }
            there.insert(*oid);
        }
    }
}
