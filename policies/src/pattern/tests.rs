use proptest::prelude::*;

use super::*;

fn remote(url: &str) -> Remote {
    Remote::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn permits(pattern: &str, url: &str) -> bool {
    RemotePattern::parse(pattern).expect(pattern).matches(&remote(url), &[], Reading::Sure)
}

fn denies(pattern: &str, url: &str) -> bool {
    RemotePattern::parse(pattern).expect(pattern).matches(&remote(url), &[], Reading::Possible)
}

#[test]
fn a_star_stays_in_its_component_and_git_is_optional() {
    for (url, permitted) in [
        ("https://h.example/acme/w.git", true),
        ("https://h.example/acme/w", true),
        ("https://h.example:443/acme/w", true),
        ("https://h.example/acme/w/x", false),
        ("https://h.example.evil/acme/w", false),
        ("https://h.example:22/acme/w", false),
        ("https://h.example/Acme/w", false),
        ("https://bob@h.example/acme/w", false),
        ("ssh://h.example/acme/w", false),
    ] {
        assert_eq!(permits("https://h.example/acme/*", url), permitted, "{url}");
    }
    let refs = RefPattern::parse("refs/heads/agent/*").expect("a pattern");
    let name = |text: &str| RefName::parse(text.as_bytes()).expect("a ref");
    assert!(refs.matches(&name("refs/heads/agent/x"), Reading::Sure));
    assert!(!refs.matches(&name("refs/heads/agent/x/y"), Reading::Possible));
    assert!(!refs.matches(&name("refs/heads/Agent/x"), Reading::Sure));
    assert!(refs.matches(&name("refs/heads/Agent/x"), Reading::Possible));
    assert!(refs.matches(&name("refs/heads/аgent/x"), Reading::Possible));
}

#[test]
fn forms_that_surely_mean_the_same_are_permitted_together() {
    assert!(permits("git@h:/srv/*", "ssh://git@h:22/srv/w"));
    assert!(permits("ssh://git@h/~/w", "git@h:w.git"));
    assert!(!permits("git@h:srv/*", "ssh://git@h/srv/w"));
    assert!(permits("git@github.com:acme/*", "ssh://git@github.com/Acme/W.git"));
    assert!(permits("https://h/acme/**", "https://h/acme/a/b.git"));
    assert!(permits("https://h/**", "https://h/a"));
    let own = remote("https://bob@h/acme/own");
    let pattern = RemotePattern::parse("https://h/acme/*").expect("a pattern");
    assert!(pattern.matches(&remote("https://bob@h/acme/w"), &[&own], Reading::Sure));
    assert!(!pattern.matches(&remote("https://eve@h/acme/w"), &[&own], Reading::Sure));
}

#[test]
fn a_denial_holds_for_every_spelling_that_a_server_could_take_as_the_same() {
    for url in [
        "https://h/acme/infra",
        "https://h/acme/infra.git",
        "https://h/acme/infra.GIT",
        "https://h/acme/infra.git.git",
        "https://h/acme/infra/.git",
        "https://h/acme/infra.git/worktrees/x",
        "https://h/acme/infra/.git/worktrees/x",
        "https://h/acme/infra/worktrees/x",
        "https://h/acme/infra.",
        "https://H.:443/Acme/INFRA/",
        "https://bob@h/acme/infra",
        "https://h/acme/infrа",
        "https://h/acme/ｉnfra",
        "ssh://git@h/acme/infra",
        "ssh://root@h:2222/acme/infra",
        "git@h:acme/infra",
        "git@h:/acme/infra",
        "h:~/acme/infra",
        "git@h:~git/acme/infra",
        "ssh://git@h/home/git/acme/infra.git",
    ] {
        assert!(denies("https://h/acme/infra", url), "{url}");
        assert!(denies("https://h/acme/*", url), "{url}");
    }
    for other in [
        "https://h/acme/infra2",
        "https://h/acme/tools/infra",
        "https://h:8443/acme/infra",
        "https://h.example/acme/infra",
        "git@h:other/infra",
    ] {
        assert!(!denies("https://h/acme/infra", other), "{other}");
    }
    assert!(denies("ssh://git@h/srv/git/infra.git", "git@h:infra"));
    assert!(denies("ssh://git@h/srv/git/infra.git", "h:git/infra"));
    assert!(!denies("ssh://git@h/srv/git/infra.git", "h:other/infra"));
    assert!(denies("git@h:infra", "ssh://h/srv/git/infra.git"));
    assert!(denies("https://github.com/acme/infra", "ssh://git@ssh.github.com:443/acme/infra"));
    assert!(denies("https://127.0.0.1/r", "https://0x7f.1/r"));
}

#[test]
fn a_neighbour_is_another_repository_on_the_same_host() {
    let own = remote("ssh://git@h:22/acme/w.git");
    let pattern = HostPattern::parse(REMOTES).expect("a pattern");
    let beside = |url: &str| pattern.matches(&remote(url), &[&own], Reading::Sure);
    assert!(beside("ssh://git@h:22/acme/other"));
    assert!(!beside("ssh://git@h/acme/w"));
    assert!(!beside("ssh://root@h:22/acme/other"));
    assert!(!beside("ssh://git@h:23/acme/other"));
}

#[test]
fn odd_patterns_are_refused() {
    for bad in [
        "*",
        "{project}",
        "https://h/{a,b}",
        "github.com/acme",
        "https://h/[ab]",
        "https://git.example.org*/x/**",
        "https://*.example.org/x",
        "https://*/x",
        "https://h:*/x",
        "https://h:4*/x",
        "https://*@h/x",
        "ssh://g*@h/x",
        "git@*:x/y",
        "git@h*:x/y",
        "h*ttps://h/x",
        "*://h/x",
        "https://h/a//b",
        "https://h/../x",
        "https://h/a%2fb",
        "https://u:p@h/x",
        "https://h/infrа",
        "https://h/a?b",
    ] {
        assert!(RemotePattern::parse(bad).is_err(), "{bad}");
    }
    for bad in ["*.example.org", "h*", "h:443", "u@h", "bücher.example"] {
        assert!(HostPattern::parse(bad).is_err(), "{bad}");
    }
    for bad in ["main", "refs/heads/mаin", "refs/heads/main\u{a0}"] {
        assert!(RefPattern::parse(bad).is_err(), "{bad}");
    }
}

/// One way to write a remote that leaves it the same.
fn respelled(url: &str, way: usize) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (host, path) = rest.split_once('/').expect("a path");
    let last = path.rsplit('/').next().expect("a name");
    match way % 12 {
        0 => format!("{scheme}://{host}/{path}.git"),
        1 => format!("{scheme}://{host}/{path}/"),
        2 => format!("{scheme}://{host}/{}", path.to_uppercase()),
        3 => format!("{scheme}://{}/{path}", host.to_uppercase()),
        4 => format!("{scheme}://{host}./{path}"),
        5 => format!("{scheme}://{host}:443/{path}"),
        6 => format!("{scheme}://bob@{host}/{path}"),
        7 => format!("{scheme}://{host}/{path}/.git"),
        8 => format!("{scheme}://{host}/{path}.git/worktrees/{last}"),
        9 => format!("ssh://git@{host}:2222/{path}"),
        10 => format!("git@{host}:{path}"),
        _ => format!("{scheme}://{host}/{}", path.replace('a', "а")),
    }
}

proptest! {
    #[test]
    fn no_spelling_of_a_denied_remote_is_missed(
        host in "[a-z]{1,8}(\\.[a-z]{2,5})?",
        path in "[a-z0-9]{1,6}(/[a-z0-9]{1,6}){0,3}",
        ways in proptest::collection::vec(0..12usize, 0..3),
        star in any::<bool>(),
    ) {
        let url = format!("https://{host}/{path}");
        let pattern = match (star, url.rsplit_once('/')) {
            (true, Some((rest, _))) => format!("{rest}/*"),
            _ => url.clone(),
        };
        for way in ways {
            let spelled = respelled(&url, way);
            prop_assert!(denies(&pattern, &spelled), "{pattern} {spelled}");
        }
    }

    #[test]
    fn what_a_pattern_permits_it_would_deny_too(pattern in "(https://|ssh://(git@)?)h/[a-z*/.~]{1,12}", path in "[a-z/.~]{1,12}") {
        for scheme in ["https://h/", "ssh://h/", "ssh://git@h/", "git@h:", "h:/"] {
            if let (Ok(pattern), Ok(remote)) =
                (RemotePattern::parse(&pattern), Remote::parse(&format!("{scheme}{path}")))
            {
                let permitted = pattern.matches(&remote, &[], Reading::Sure);
                prop_assert!(!permitted || pattern.matches(&remote, &[], Reading::Possible));
            }
        }
    }
}
